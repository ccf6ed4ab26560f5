#!/usr/bin/env python
"""Measure which segments are hard: the loss by rank, and by how many tokens a prediction could read.

Writes loss_by_rank.png and loss_by_rank.json, with standard errors. Serializations are of the checkpoint's own kind.

Example:
    python tools/visualization/loss_by_rank.py CONFIG work_dirs/NAME/epoch_100.pth --out out --num 1000
"""

import argparse

from randsac_mm.visualization import draw_loss_by_rank, loss_by_rank
from randsac_mm.visualization.command import add_image_options, checkpoint_parser, prepare, run_tool, write_result
from randsac_mm.visualization.rank_loss import with_error


def work(args: argparse.Namespace) -> str:
    """Measure, draw and write; return what to print."""
    model, inputs, names = prepare(args)
    picture, numbers = args.out / 'loss_by_rank.png', args.out / 'loss_by_rank.json'
    result = loss_by_rank(model, inputs, seed=args.seed)
    draw_loss_by_rank(result, picture)
    write_result(numbers, args, result, names)
    loss = f'loss of {len(names)} images: {with_error(result["overall"])}; of predicting 0: {result["of_zero"]:.4f}'
    return f'{loss}\n{picture}\n{numbers}'


def main() -> None:
    parser = checkpoint_parser(__doc__)
    add_image_options(parser, 256)
    run_tool(parser, work)


if __name__ == '__main__':
    main()
