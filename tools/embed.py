#!/usr/bin/env python
"""Compute features of images by the frozen encoder of a run: names, features and a manifest, for any number of images.

FILE has `names` and `features` (N, D), float32: averaged tokens, those that tools/evaluate.py evaluates. FILE.json has
origin, sizes and images that could not be read, for which the exit status is 1. An interrupted command continues when
it is started again.

Examples:
    python tools/embed.py work_dirs/vit-s_folder /my/photos --out features.safetensors
    python tools/embed.py work_dirs/vit-s_folder /my/photos --out features.safetensors --neighbours query.jpg
"""

import argparse
import sys
from pathlib import Path

import torch

from randsac_mm.engine.tool import at_least, make_parser, run_tool
from randsac_mm.files import atomic_write
from randsac_mm.inference import embed_files, find_neighbours, load
from randsac_mm.visualization.neighbour_page import make_neighbour_page


def work(args: argparse.Namespace) -> None:
    encoder = load(args.run, args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    manifest = embed_files(encoder, args.images, args.out, args.batch_size)
    print(f'{manifest["features"]:,} features of {manifest["dims"]} dimensions: {args.out}\n{manifest["preparation"]}')
    if args.neighbours is not None:
        page = args.out.with_name(f'{args.out.name}.html')
        html = make_neighbour_page(find_neighbours(encoder, args.out, args.neighbours), manifest)
        with atomic_write(page) as temporary:
            temporary.write_text(html, encoding='utf-8')
        print(page)
    for fault in manifest['faulty']:
        print(f'embed.py: not embedded: {fault["image"]}: {fault["reason"]}', file=sys.stderr)
    if faults := len(manifest['faulty']):
        raise ValueError(f'{faults} of {manifest["images"]} images could not be read; they are named above')


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('run', type=Path, metavar='RUN', help='work directory of a run, or a checkpoint in it')
    parser.add_argument('images', nargs='+', metavar='IMAGES', help='image files, or folders of any nesting')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE', help='.safetensors, .npz or .parquet')
    text = 'also write FILE.html: the nearest images of these, or of eight of IMAGES'
    parser.add_argument('--neighbours', nargs='*', metavar='IMAGE', help=text)
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument(
        '--batch-size', type=at_least(1), default=64, metavar='N', help='images in a step (default: 64)'
    )
    run_tool(parser, work)
