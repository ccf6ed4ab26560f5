#!/usr/bin/env python
"""Draw the first three principal components of patch features as colours.

Writes features.png and features.json (explained variance of each component).

Example:
    python tools/visualization/features.py CONFIG work_dirs/NAME/epoch_100.pth --out out --images /my/photos
"""

import argparse
from pathlib import Path

from torch import Tensor

from randsac_mm.models import RandSAC
from randsac_mm.visualization import draw_components
from randsac_mm.visualization.command import picture_parser, run_picture_tool


def draw(model: RandSAC, inputs: Tensor, picture: Path, args: argparse.Namespace) -> tuple[dict, str]:
    result = draw_components(model, inputs, picture, args.layer)
    return result, 'explained variance: ' + ', '.join(f'{share:.1%}' for share in result['explained_variance'])


def main() -> None:
    parser = picture_parser(__doc__, 8)
    parser.add_argument('--layer', type=int, default=-1, help='from 0, negative from the end (default: the last)')
    run_picture_tool(parser, 'features', draw)


if __name__ == '__main__':
    main()
