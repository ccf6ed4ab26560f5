#!/usr/bin/env python
"""Draw the learned skip connections: which encoder layers each decoder layer reads.

Writes skip_weights.png and skip_weights.json.
"""

from randsac_mm.visualization import draw_skip_weights
from randsac_mm.visualization.command import make_parser, run_picture_tool

if __name__ == '__main__':
    run_picture_tool(make_parser(__doc__), 'skip_weights', draw_skip_weights)
