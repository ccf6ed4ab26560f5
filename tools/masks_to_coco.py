#!/usr/bin/env python
"""Make an annotation file in COCO's format from a folder of instance masks.

python tools/masks_to_coco.py data/cells/images data/cells/masks --out data/cells/train.json --classes cell
"""

import argparse

from randsac_mm.engine.tool import make_parser, run_tool

from randsac_mm.datasets.instance_masks import masks_to_coco
from randsac_mm.files import write_json


def work(args: argparse.Namespace) -> str:
    data, notes = masks_to_coco(args.images, args.masks, args.classes)
    write_json(args.out, data)
    return '\n'.join([*notes, f'{args.out}: {len(data["annotations"]):,} instances, {len(data["images"]):,} images'])


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('images', help='folder of images')
    text = 'folder of masks: a.png of numbered instances, a/*.png or a_*.png of one each; of several classes: CLASS/...'
    parser.add_argument('masks', help=text)
    parser.add_argument('--out', required=True, metavar='FILE.json', help='file to write')
    parser.add_argument('--classes', nargs='+', default=['object'], metavar='NAME', help='names (default: object)')
    run_tool(parser, work)
