#!/usr/bin/env python
"""Measure which segments are hard: the loss by rank, and by how many tokens a prediction could read.

Writes loss_by_rank.png and loss_by_rank.json, with standard errors. Serializations are of the checkpoint's own kind.

Example:
    python tools/visualization/loss_by_rank.py CONFIG work_dirs/NAME/epoch_100.pth --out out --num 1000
"""

import argparse

from randsac_mm.visualization import draw_loss_by_rank, loss_by_rank
from randsac_mm.visualization.canvas import save_json
from randsac_mm.visualization.command import describe, picture_parser, prepare, run_tool


def work(args: argparse.Namespace) -> str:
    """Measure, draw and write; return what to tell the user."""
    model, inputs, names = prepare(args)
    picture, figures = args.out / 'loss_by_rank.png', args.out / 'loss_by_rank.json'
    result = loss_by_rank(model, inputs, args.serializations, args.seed, args.batch_size)
    draw_loss_by_rank(result, picture)
    save_json({**describe(args, names), **result.plain()}, figures)
    (mean,), (error,) = result.overall.mse, result.overall.standard_error
    about = '' if error is None else f' +- {error:.4f}'
    return (
        f'loss of {len(names)} images: {mean:.4f}{about}; of predicting 0: {result.of_zero:.4f}\n{picture}\n{figures}'
    )


def main() -> None:
    """Read the command line, measure, say where."""
    parser = picture_parser(__doc__, 256)
    parser.add_argument('--serializations', type=int, default=2, help='of each image (default: 2)')
    parser.add_argument('--batch-size', type=int, default=64, help='images in a step (default: 64)')
    run_tool('loss_by_rank.py', parser, work)


if __name__ == '__main__':
    main()
