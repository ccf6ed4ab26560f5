#!/usr/bin/env python
"""Compute features of any number of images by the frozen encoder of a run; an interrupted command continues.

FILE has `names` and `features`: averaged tokens, as tools/evaluate.py evaluates them. FILE.json has origin, sizes and
the images that could not be read, for which the exit status is 1.

Example:
    python tools/embed.py work_dirs/vit-s_folder /my/photos --out features.safetensors --neighbours
"""

import argparse
import sys
from pathlib import Path

from randsac_mm.engine.tool import at_least, make_parser, run_tool

import torch

from randsac_mm.files import atomic_write
from randsac_mm.inference import embed_files, load
from randsac_mm.inference.neighbours import make_neighbour_page
from randsac_mm.locations import command_name


def work(args: argparse.Namespace) -> None:
    encoder = load(args.run, args.device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    about = embed_files(encoder, args.images, args.out, args.batch_size)
    print(f'{about["features"]:,} features of {about["dims"]} dimensions: {args.out}\n{about["preparation"]}')
    if args.neighbours is not None:
        with atomic_write(f'{args.out}.html') as page:
            page.write_text(make_neighbour_page(encoder, args.out, about, args.neighbours), encoding='utf-8')
        print(f'{args.out}.html')
    for fault in about['faulty']:
        print(f'{command_name() or "embed.py"}: not embedded: {fault["image"]}: {fault["reason"]}', file=sys.stderr)
    if about['faulty']:
        raise ValueError(f'{len(about["faulty"])} of {about["images"]} images could not be read; they are named above')


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('run', metavar='RUN', help='work directory of a run, or a checkpoint in it')
    parser.add_argument('images', nargs='+', metavar='IMAGES', help='image files, or folders of any nesting')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE', help='.safetensors, .npz or .parquet')
    text = 'also write FILE.html: the nearest images of these, or of eight of IMAGES'
    parser.add_argument('--neighbours', nargs='*', metavar='IMAGE', help=text)
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ... (default: cuda if there is one)')
    parser.add_argument(
        '--batch-size', type=at_least(1), default=64, metavar='N', help='images in a step (default: 64)'
    )
    run_tool(parser, work)
