#!/usr/bin/env python
"""Print parameters and multiply-adds of a pre-training model for one image, as executed and as the paper counts.

Example:
    python tools/analysis/complexity.py configs/randsac/vit-b_in1k.py
    python tools/analysis/complexity.py configs/randsac/vit-t_cifar10.py --measure
"""

import argparse

from randsac_mm.engine.tool import make_parser, run_tool

from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from randsac_mm.complexity import measure, report
from randsac_mm.engine.launch import load_config
from randsac_mm.models import RandSAC


def work(args: argparse.Namespace) -> str:
    cfg = load_config(args.config, args.cfg_options, None, 'none')
    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    if not isinstance(model, RandSAC):
        raise ValueError(f'{args.config} builds a {type(model).__name__}, not a RandSAC model')
    measured = measure(model.eval()) if args.measure else {}
    return report(model) + '\nmeasured: ' * args.measure + ', '.join(f'{part} {n:,}' for part, n in measured.items())


if __name__ == '__main__':
    parser = make_parser(__doc__)
    parser.add_argument('config', help='config of a pre-training run')
    parser.add_argument('--measure', action='store_true', help='also count what is executed by running the model once')
    run_tool(parser, work)
