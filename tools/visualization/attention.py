#!/usr/bin/env python
"""Draw where the encoder's tokens look: attention of chosen layers and heads, and attention rollout.

Writes attention.png (means over heads), attention_heads.png (each head) and attention.json (how wide each head looks).

Example:
    python tools/visualization/attention.py CONFIG work_dirs/NAME/epoch_100.pth --out out
    python tools/visualization/attention.py CONFIG work_dirs/NAME/epoch_100.pth --out out --query 2 5 --layers 0 5 -1
"""

import argparse

from randsac_mm.visualization import draw_attention
from randsac_mm.visualization.canvas import save_json
from randsac_mm.visualization.command import describe, picture_parser, prepare, run_tool


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to tell the user."""
    model, inputs, names = prepare(args)
    picture, heads, figures = (args.out / f'attention{end}' for end in ('.png', '_heads.png', '.json'))
    result = draw_attention(model, inputs, picture, args.query, args.layers, args.heads, heads)
    save_json({**describe(args, names), **result}, figures)
    return f'{picture}\n{heads}\n{figures}'


def main() -> None:
    """Read the command line, draw, say where."""
    parser = picture_parser(__doc__, 4)
    parser.add_argument(
        '--query', type=int, nargs=2, metavar=('ROW', 'COLUMN'), help='token that looks (default: the centre)'
    )
    parser.add_argument('--layers', type=int, nargs='+', help='from 0, negative from the end (default: four of them)')
    parser.add_argument('--heads', type=int, nargs='+', help='from 0 (default: all)')
    run_tool('attention.py', parser, work)


if __name__ == '__main__':
    main()
