#!/usr/bin/env python
"""Draw the first three principal components of patch features as colours.

Writes features.png and features.json (explained variance of each component).

Example:
    python tools/visualization/features.py CONFIG work_dirs/NAME/epoch_100.pth --out out --images /my/photos
"""

import argparse

from randsac_mm.visualization import draw_features
from randsac_mm.visualization.canvas import save_json
from randsac_mm.visualization.command import describe, picture_parser, prepare, run_tool


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to tell the user."""
    model, inputs, names = prepare(args)
    picture, figures = args.out / 'features.png', args.out / 'features.json'
    result = draw_features(model, inputs, picture, args.layer)
    save_json({**describe(args, names), **result}, figures)
    shares = ', '.join(f'{share:.1%}' for share in result['explained_variance'])
    return f'explained variance: {shares}\n{picture}\n{figures}'


def main() -> None:
    """Read the command line, draw, say where."""
    parser = picture_parser(__doc__, 8)
    parser.add_argument('--layer', type=int, default=-1, help='from 0, negative from the end (default: the last)')
    run_tool('features.py', parser, work)


if __name__ == '__main__':
    main()
