#!/usr/bin/env python
"""Train classification on folders of classes, from a pre-trained encoder.

DATA has train/CLASS/IMAGE and val/CLASS/IMAGE, or CLASS/IMAGE: then every fifth image is kept to validate on. Rules
decide sizes and length; they are written to RUN2/config.py, which any OpenMMLab tool runs.

Example:
    randsac-mm classify DATA --from work_dirs/photos --time 1h
"""

import argparse

from randsac_mm.engine.tool import run_tool

from randsac_mm.recipes.classify import look_at_classes
from randsac_mm.recipes.downstream import make_recipe_parser, run_downstream


def work(args: argparse.Namespace) -> None:
    run_downstream('classify', args, lambda encoder: look_at_classes(encoder, args.data))


if __name__ == '__main__':
    run_tool(make_recipe_parser(__doc__, 'labelled images'), work)
