#!/usr/bin/env python
"""Draw the learned skip connections: which encoder layers each decoder layer reads.

Writes skip_weights.png and skip_weights.json.

Example:
    python tools/visualization/skip_weights.py CONFIG work_dirs/NAME/epoch_100.pth --out out
"""

import argparse
from pathlib import Path

from mmengine.config import DictAction

from randsac_mm.engine.launch import load_config
from randsac_mm.visualization import draw_skip_weights
from randsac_mm.visualization.canvas import save_json
from randsac_mm.visualization.command import build_model, run_tool


def work(args: argparse.Namespace) -> str:
    """Draw and write; return what to tell the user."""
    model = build_model(load_config(args.config, args.cfg_options, None, 'none'), args.checkpoint)
    picture, figures = args.out / 'skip_weights.png', args.out / 'skip_weights.json'
    result = draw_skip_weights(model, picture)
    save_json({'config': args.config, 'checkpoint': args.checkpoint, **result}, figures)
    return f'{result["note"]}\n{picture}\n{figures}'


def main() -> None:
    """Read the command line, draw, say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the pre-training run')
    parser.add_argument('checkpoint', help='its checkpoint; every tensor must fit')
    parser.add_argument('--out', type=Path, required=True, help='folder for picture and figures')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    run_tool('skip_weights.py', parser, work)


if __name__ == '__main__':
    main()
