#!/usr/bin/env python
"""Measure which segments are hard: the loss by rank.

Writes loss_by_rank.png and loss_by_rank.json, with standard errors. Serializations are of the checkpoint's own kind.

Example:
    python tools/visualization/loss_by_rank.py CONFIG work_dirs/NAME/epoch_100.pth --out out --num 1000
"""

import argparse
from pathlib import Path

from torch import Tensor

from randsac_mm.models import RandSAC
from randsac_mm.visualization import draw_loss_by_rank
from randsac_mm.visualization.command import picture_parser, run_picture_tool
from randsac_mm.visualization.rank_loss import with_error


def draw(model: RandSAC, inputs: Tensor, picture: Path, args: argparse.Namespace) -> tuple[dict, str]:
    result = draw_loss_by_rank(model, inputs, picture, args.seed)
    loss = with_error(result['overall'])
    return result, f'loss of {len(inputs)} images: {loss}; of predicting 0: {result["of_zero"]:.4f}'


def main() -> None:
    run_picture_tool(picture_parser(__doc__, 256), 'loss_by_rank', draw)


if __name__ == '__main__':
    main()
