#!/usr/bin/env python
"""Measure which segments are hard: the loss by rank.

Writes loss_by_rank.png and loss_by_rank.json, with standard errors. Serializations are of the checkpoint's own kind.
"""

from randsac_mm.visualization import draw_loss_by_rank
from randsac_mm.visualization.command import make_parser, run_picture_tool

if __name__ == '__main__':
    run_picture_tool(make_parser(__doc__, 256), 'loss_by_rank', draw_loss_by_rank, ['seed'])
