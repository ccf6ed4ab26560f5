#!/usr/bin/env python
"""Draw where the encoder's tokens look: attention of chosen layers, all heads, and attention rollout.

Writes attention.png (means over heads), attention_heads.png (each head) and attention.json (how wide each head looks).

Example:
    python tools/visualization/attention.py CONFIG work_dirs/NAME/epoch_100.pth --out out
    python tools/visualization/attention.py CONFIG work_dirs/NAME/epoch_100.pth --out out --query 2 5 --layers 0 5 -1
"""

import argparse

from randsac_mm.visualization import draw_attention
from randsac_mm.visualization.command import add_image_options, checkpoint_parser, prepare, run_tool, write_result


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to print."""
    model, inputs, names = prepare(args)
    picture, heads, numbers = (args.out / f'attention{end}' for end in ('.png', '_heads.png', '.json'))
    write_result(numbers, args, draw_attention(model, inputs, picture, heads, args.query, args.layers), names)
    return f'{picture}\n{heads}\n{numbers}'


def main() -> None:
    parser = checkpoint_parser(__doc__)
    add_image_options(parser, 4)
    text = 'token that looks (default: the centre)'
    parser.add_argument('--query', type=int, nargs=2, metavar=('ROW', 'COLUMN'), help=text)
    parser.add_argument('--layers', type=int, nargs='+', help='from 0, negative from the end (default: four of them)')
    run_tool(parser, work)


if __name__ == '__main__':
    main()
