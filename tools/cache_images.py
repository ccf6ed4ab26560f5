#!/usr/bin/env python
"""Decode the images of a config's training set once, into a file that training then reads.

python tools/cache_images.py configs/randsac/vit-b_in1k.py --cfg-options train_dataloader.dataset.short_side=320
"""

import argparse

from randsac_mm.engine.tool import make_parser, run_tool

from mmpretrain.registry import DATASETS

from randsac_mm.engine.launch import load_config


def work(args: argparse.Namespace) -> str:
    dataset = load_config(args.config, None, None, 'none').train_dataloader.dataset
    if dataset.type != 'CachedImages':  # before the options, which may be CachedImages' own
        kind = [f'train_dataloader.dataset.{key}' for key in ('type=CachedImages', f'source={dataset.type}')]
        args.cfg_options = kind + args.cfg_options
    dataset = load_config(args.config, args.cfg_options, None, 'none').train_dataloader.dataset
    images = DATASETS.build(dataset)
    if args.verify and (damaged := images.verify()):
        print(f'{damaged:,} of {len(images):,} images were damaged')
        images = DATASETS.build(dataset)
    options = f'source={dataset.get("source", "UnlabelledImageFolder")} train_dataloader.dataset.type=CachedImages'
    return f'{len(images):,} images in {images.folder}\nTo use them, add train_dataloader.dataset.{options}'


if __name__ == '__main__':
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--verify', action='store_true', help='verify all images, and make a damaged cache anew')
    run_tool(parser, work)
