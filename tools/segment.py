#!/usr/bin/env python
"""Train segmentation on a folder of images and masks, from a pre-trained encoder.

DATA has images/ and masks/ (or annotations/), with train/ and val/ in both, or without: then every fifth image is kept
to validate on. Rules decide sizes and length; they are written to RUN2/config.py, which any OpenMMLab tool runs.

Examples:
    randsac-mm segment DATA --classes road field forest --from work_dirs/photos --time 1h
    randsac-mm segment DATA --classes background cell --values 0 255 --from work_dirs/photos
"""

import argparse

from randsac_mm.engine.tool import run_tool

from randsac_mm.recipes.downstream import make_recipe_parser, run_downstream
from randsac_mm.recipes.segment import look_at_masks


def work(args: argparse.Namespace) -> None:
    labels = args.classes, args.values, args.unlabelled
    run_downstream('segment', args, lambda encoder: look_at_masks(encoder, args.data, *labels))


if __name__ == '__main__':
    parser = make_recipe_parser(__doc__, 'images and masks')
    parser.add_argument('--classes', nargs='+', required=True, help='names of the classes')
    parser.add_argument('--values', nargs='+', type=int, help='value of each class in the masks (default: 0 1 2 ...)')
    text = 'values of pixels that are no class (default: 255)'
    parser.add_argument('--unlabelled', nargs='*', type=int, help=text)
    run_tool(parser, work)
