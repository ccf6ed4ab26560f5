#!/usr/bin/env python
"""Draw the learned skip connections: which encoder layers each decoder layer reads.

Writes skip_weights.png and skip_weights.json.

Example:
    python tools/visualization/skip_weights.py CONFIG work_dirs/NAME/epoch_100.pth --out out
"""

import argparse
from pathlib import Path

from randsac_mm.models import RandSAC
from randsac_mm.visualization import draw_skip_weights
from randsac_mm.visualization.command import picture_parser, run_picture_tool


def draw(model: RandSAC, inputs: None, picture: Path, args: argparse.Namespace) -> tuple[dict, str]:
    result = draw_skip_weights(model, picture)
    return result, result['note']


def main() -> None:
    run_picture_tool(picture_parser(__doc__, None), 'skip_weights', draw)


if __name__ == '__main__':
    main()
