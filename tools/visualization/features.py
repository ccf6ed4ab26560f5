#!/usr/bin/env python
"""Draw the first three principal components of patch features as colours.

Writes features.png and features.json (explained variance of each component).

Example:
    python tools/visualization/features.py CONFIG work_dirs/NAME/epoch_100.pth --out out --images /my/photos
"""

import argparse

from randsac_mm.visualization import draw_components
from randsac_mm.visualization.command import add_image_options, checkpoint_parser, prepare, run_tool, write_result


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to print."""
    model, inputs, names = prepare(args)
    picture, numbers = args.out / 'features.png', args.out / 'features.json'
    result = draw_components(model, inputs, picture, args.layer)
    write_result(numbers, args, result, names)
    shares = ', '.join(f'{share:.1%}' for share in result['explained_variance'])
    return f'explained variance: {shares}\n{picture}\n{numbers}'


def main() -> None:
    parser = checkpoint_parser(__doc__)
    add_image_options(parser, 8)
    parser.add_argument('--layer', type=int, default=-1, help='from 0, negative from the end (default: the last)')
    run_tool(parser, work)


if __name__ == '__main__':
    main()
