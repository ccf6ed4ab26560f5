#!/usr/bin/env python
"""Repeat a training step whose loss or gradients were not finite, and print where it went wrong.

A run of pre-training writes the first three such steps to the folder "nan" of its work dir.

Example:
    python tools/replay.py configs/randsac/vit-b_in1k.py work_dirs/vit-b_in1k/nan/iter_123.pth
"""

import argparse

from randsac_mm.engine.tool import make_parser, run_tool

from randsac_mm.engine import launch
from randsac_mm.engine.replay import replay


def work(args: argparse.Namespace) -> str:
    cfg = launch.load_config(args.config, args.cfg_options, None, 'none')
    return '\n'.join(replay(cfg, args.record, args.device))


if __name__ == '__main__':
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config of the run')
    parser.add_argument('record', help='file of the folder "nan" in its work dir')
    parser.add_argument('--device', default='cpu', help='cpu (default), cuda, cuda:1, ...')
    run_tool(parser, work)
