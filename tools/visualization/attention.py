#!/usr/bin/env python
"""Draw where the encoder's tokens look: attention of chosen layers, all heads, and attention rollout.

Writes attention.png (means over heads), attention_heads.png (each head) and attention.json (how wide each head looks).
"""

from randsac_mm.visualization import draw_attention
from randsac_mm.visualization.command import make_parser, run_picture_tool

if __name__ == '__main__':
    parser = make_parser(__doc__, 4)
    text = 'token that looks (default: the centre)'
    parser.add_argument('--query', type=int, nargs=2, metavar=('ROW', 'COLUMN'), help=text)
    parser.add_argument('--layers', type=int, nargs='+', help='from 0, negative from the end (default: four of them)')
    run_picture_tool(parser, 'attention', draw_attention, ['query', 'layers'])
