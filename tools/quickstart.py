"""Pre-train a small RandSAC ViT on real digits and evaluate it; tools/quickstart.sh prepares the environment for it."""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import at_least, make_parser, run_tool

import torch

from randsac_mm.locations import config_path
from randsac_mm.quickstart import format_summary, run


def work(args: argparse.Namespace) -> str:
    torch.set_num_threads(min(torch.get_num_threads(), 4))  # matrices this small only lose time on more
    config = Path(config_path('randsac/vit_digits.py'))
    return format_summary(args.out, run(config, args.out, args.seeds, args.raster, args.epochs))


if __name__ == '__main__':
    parser = make_parser(__doc__, config=False)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/quickstart'), help='where results go')
    parser.add_argument('--seeds', type=at_least(0), nargs='+', default=[0], help='one run each (default: 0)')
    parser.add_argument('--raster', action='store_true', help='run raster order beside it, at the same budget')
    parser.add_argument('--epochs', type=at_least(2), help="epochs instead of the config's; at least 2")
    run_tool(parser, work)
