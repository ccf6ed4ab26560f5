#!/usr/bin/env python
"""Draw serializations of an image (PNG) and the order in which it is predicted (animated GIF).

Example:
    python tools/visualization/serialization.py --out out
    python tools/visualization/serialization.py --kind blob --hierarchy 11 5 --out out
    python tools/visualization/serialization.py configs/randsac/vit-b_in1k.py --image photo.jpg --out out --num 3
"""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import at_least, run_tool

from sklearn.datasets import load_sample_image

from randsac_mm.datasets import read_image
from randsac_mm.engine.launch import load_config
from randsac_mm.models import build_serialization
from randsac_mm.visualization import animate_serialization, draw_serialization, fit_image, serialize
from randsac_mm.visualization.command import make_parser


def work(args: argparse.Namespace) -> str:
    """Draw what the command line asks for; return the files, one a line."""
    partition = dict(type=f'{args.kind.title()}Partition', hierarchy=tuple(args.hierarchy))
    size, patch, serialization = 192, 16, dict(type='RandomSerialization', partition=partition)
    if args.config:
        model = load_config(args.config, args.cfg_options, None, 'none').model
        size, patch = model.backbone.get('img_size', 224), model.backbone.get('patch_size', 16)
        serialization = model.get('data_preprocessor', {}).get('serialization')
        if serialization is None:
            raise ValueError(f'{args.config} has no model.data_preprocessor.serialization: name one of pre-training')
    height, width = (size, size) if isinstance(size, int) else size
    image = read_image(args.image) if args.image else load_sample_image('flower.jpg')
    image, grid = fit_image(image, (height, width)), (height // patch, width // patch)
    drawn = serialize(build_serialization(serialization), args.num, grid, args.seed)
    files = []
    for i, (rank, groups) in enumerate(zip(*drawn, strict=True)):
        stem = args.out / ((args.image.stem if args.image else 'flower') + (f'_{i}' if args.num > 1 else ''))
        files.append(draw_serialization(image, rank, grid, f'{stem}.png', groups))
        files.append(animate_serialization(image, rank, grid, f'{stem}.gif', groups))
    return '\n'.join(map(str, files))


if __name__ == '__main__':
    parser = make_parser(__doc__)
    parser.add_argument('config', nargs='?', help='config of a pre-training run (default: 192 px, 12 x 12 tokens)')
    parser.add_argument('--image', type=Path, help='image file (default: a photograph of scikit-learn)')
    parser.add_argument('--seed', type=at_least(0), default=0, help='of the random order (default: 0)')
    parser.add_argument('--num', type=at_least(1), default=1, help='number of serializations (default: 1)')
    parser.add_argument('--kind', choices=['blob', 'square'], default='square', help='of segment, without a config')
    parser.add_argument('--hierarchy', type=int, nargs='+', default=[16, 4], help='without a config (default: 16 4)')
    run_tool(parser, work)
