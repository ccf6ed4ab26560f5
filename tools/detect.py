#!/usr/bin/env python
"""Train detection on images with annotations in COCO's format, from a pre-trained encoder.

The classes are the categories of the first file. With masks this is Mask R-CNN, without Faster R-CNN. Rules decide
sizes and length; they are written to RUN2/config.py, which any OpenMMLab tool runs.

Example:
    randsac-mm detect IMAGES --annotations train.json val.json --from work_dirs/photos --time 1h
"""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import run_tool

from randsac_mm.recipes.detect import look_at_objects
from randsac_mm.recipes.downstream import make_recipe_parser, run_downstream


def work(args: argparse.Namespace) -> None:
    run_downstream('detect', args, lambda encoder: look_at_objects(encoder, args.data, args.annotations))


if __name__ == '__main__':
    parser = make_recipe_parser(__doc__, 'images')
    text = 'files to train and to validate on'
    parser.add_argument('--annotations', nargs='+', type=Path, required=True, metavar='JSON', help=text)
    run_tool(parser, work)
