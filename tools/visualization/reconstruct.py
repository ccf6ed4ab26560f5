#!/usr/bin/env python
"""Draw what a pre-trained model predicts: original, serialization, prediction per segment, all predictions together.

Writes reconstruction.png and reconstruction.json (mean squared error of every rank).
"""

from randsac_mm.visualization import draw_reconstruction
from randsac_mm.visualization.command import make_parser, run_picture_tool

if __name__ == '__main__':
    run_picture_tool(make_parser(__doc__, 8), 'reconstruction', draw_reconstruction, ['seed'])
