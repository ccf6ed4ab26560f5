#!/usr/bin/env python
"""Draw the learned skip connections: which encoder layers each decoder layer reads.

Writes skip_weights.png and skip_weights.json.

Example:
    python tools/visualization/skip_weights.py CONFIG work_dirs/NAME/epoch_100.pth --out out
"""

import argparse

from randsac_mm.engine.launch import load_config
from randsac_mm.visualization import draw_skip_weights
from randsac_mm.visualization.command import build_model, checkpoint_parser, run_tool, write_result


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to print."""
    model = build_model(load_config(args.config, args.cfg_options, None, 'none'), args.checkpoint)
    picture, numbers = args.out / 'skip_weights.png', args.out / 'skip_weights.json'
    result = draw_skip_weights(model, picture)
    write_result(numbers, args, result)
    return f'{result["note"]}\n{picture}\n{numbers}'


if __name__ == '__main__':
    run_tool(checkpoint_parser(__doc__), work)
