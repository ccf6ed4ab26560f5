#!/usr/bin/env python
"""Write tiny data sets of coloured shapes in the formats of ADE20K and COCO, for the smoke configs.

python tools/make_shapes.py --out data/shapes              # data/shapes/ade20k and data/shapes/coco
"""

import argparse
import sys

from randsac_mm.datasets.shapes import make_shapes


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', default='data/shapes', help='folder to write (default: %(default)s)')
    parser.add_argument('--images', type=int, default=8, help='pictures to train on (default: %(default)s)')
    parser.add_argument('--val', type=int, default=4, help='pictures to validate on (default: %(default)s)')
    parser.add_argument(
        '--size', type=int, nargs=2, default=(96, 128), metavar=('H', 'W'), help='greatest size in pixels (96 128)'
    )
    parser.add_argument('--seed', type=int, default=0, help='other pictures (default: %(default)s)')
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    try:
        out = make_shapes(args.out, args.images, args.val, args.size, args.seed)
    except (OSError, ValueError) as error:
        sys.exit(f'make_shapes: {error}')
    print(f'{args.images} + {args.val} pictures in {out}/ade20k and {out}/coco')


if __name__ == '__main__':
    main()
