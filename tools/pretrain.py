#!/usr/bin/env python
"""Pre-train on a folder of images: model and schedule follow from the images, by the rules of docs/recipes.md.

The config that is written to RUN/config.py is an ordinary one, to be edited and run by any tool.

Examples:
    python tools/pretrain.py /my/photos
    python tools/pretrain.py /my/photos --time 30m                 # of the whole command
    python tools/pretrain.py /my/photos --labelled /my/classes     # accuracies beside the loss
    python tools/train.py work_dirs/photos/config.py --resume      # continue where it stopped
"""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import at_least, make_parser, run_tool

from randsac_mm.engine.time_budget import parse_duration
from randsac_mm.recipes.pretrain import pretrain
from randsac_mm.recipes.rules import ARCHS


def work(args: argparse.Namespace) -> None:
    pretrain(args.photos, args.labelled, args.arch, args.time, args.epochs, args.out)


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('photos', type=Path, help='folder of images, of any nesting')
    text = 'CLASS/IMAGE or {train,val}/CLASS/IMAGE: evaluate the encoder on them during the training'
    parser.add_argument('--labelled', type=Path, metavar='DIR', help=text)
    parser.add_argument('--arch', choices=ARCHS, help='model (default: by the number of images)')
    length = parser.add_mutually_exclusive_group()
    length.add_argument('--time', type=parse_duration, metavar='30m', help='time of the whole command: s, m, h or d')
    length.add_argument('--epochs', type=at_least(1), help='passes over the images')
    parser.add_argument('--out', type=Path, metavar='RUN', help='work directory (default: work_dirs/NAME_OF_FOLDER)')
    run_tool(parser, work)
