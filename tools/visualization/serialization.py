#!/usr/bin/env python
"""Draw serializations of an image (PNG) and the order in which it is predicted (animated GIF).

Example:
    python tools/visualization/serialization.py --out out
    python tools/visualization/serialization.py --kind blob --hierarchy 11 5 --out out
    python tools/visualization/serialization.py configs/randsac/vit-b_in1k.py --image photo.jpg --out out --num 3
"""

import argparse
from pathlib import Path

from randsac_mm.datasets import read_image
from randsac_mm.engine.launch import load_config
from randsac_mm.models import build_serialization
from randsac_mm.visualization import animate_serialization, draw_serialization, fit_image, sample_photo, serialize
from randsac_mm.visualization.command import add_options, run_tool

PARTITIONS = {'square': 'SquarePartition', 'blob': 'BlobPartition'}


def model_config(args: argparse.Namespace) -> dict:
    """Return the model's config: that of the file, or one for the options."""
    if args.config:
        return load_config(args.config, args.cfg_options, None, 'none').model
    partition = dict(type=PARTITIONS[args.kind], hierarchy=tuple(args.hierarchy))
    serialization = dict(type='RandomSerialization', partition=partition)
    return dict(backbone=dict(img_size=192), data_preprocessor=dict(serialization=serialization))


def work(args: argparse.Namespace) -> str:
    """Draw what the command line asks for; return the files, one a line."""
    model = model_config(args)
    size, patch = model['backbone'].get('img_size', 224), model['backbone'].get('patch_size', 16)
    height, width = (size, size) if isinstance(size, int) else size
    image = fit_image(read_image(args.image) if args.image else sample_photo(), (height, width))
    grid = (height // patch, width // patch)
    serialization = build_serialization(model['data_preprocessor']['serialization'])
    drawn = serialize(serialization, args.num, grid, args.seed)
    name = args.image.stem if args.image else 'flower'
    files = []
    for i, (rank, groups) in enumerate(zip(*drawn, strict=True)):
        stem = args.out / (f'{name}_{i}' if args.num > 1 else name)
        files.append(draw_serialization(image, rank, grid, f'{stem}.png', groups))
        files.append(animate_serialization(image, rank, grid, f'{stem}.gif', groups))
    return '\n'.join(map(str, files))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help='config of a pre-training run (default: 192 px, 12 x 12 tokens)')
    parser.add_argument('--image', type=Path, help='image file (default: a photograph of scikit-learn)')
    parser.add_argument('--out', type=Path, required=True, help='folder for the pictures')
    parser.add_argument('--seed', type=int, default=0, help='of the random order (default: 0)')
    parser.add_argument('--num', type=int, default=1, help='number of serializations (default: 1)')
    parser.add_argument('--kind', choices=sorted(PARTITIONS), default='square', help='of segment, without a config')
    parser.add_argument('--hierarchy', type=int, nargs='+', default=[16, 4], help='without a config (default: 16 4)')
    add_options(parser)
    run_tool(parser, work)


if __name__ == '__main__':
    main()
