#!/usr/bin/env python
"""Draw the first three principal components of patch features as colours.

Writes features.png and features.json (explained variance of each component).
"""

from randsac_mm.visualization import draw_components
from randsac_mm.visualization.command import make_parser, run_picture_tool

if __name__ == '__main__':
    parser = make_parser(__doc__, 8)
    parser.add_argument('--layer', type=int, default=-1, help='from 0, negative from the end (default: the last)')
    run_picture_tool(parser, 'features', draw_components, ['layer'])
