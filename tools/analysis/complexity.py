#!/usr/bin/env python
"""Print parameters and multiply-adds of a pre-training model for one image, as executed and as the paper counts.

Example:
    python tools/analysis/complexity.py configs/randsac/vit-b_in1k.py
    python tools/analysis/complexity.py configs/randsac/vit-t_cifar10.py --measure
"""

import argparse
import sys

from mmengine.config import DictAction
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from randsac_mm.complexity import measure, report
from randsac_mm.engine.launch import load_config
from randsac_mm.models import RandSAC

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a pre-training run')
    parser.add_argument('--measure', action='store_true', help='also count what is executed by running the model once')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    args = parser.parse_args()
    try:
        cfg = load_config(args.config, args.cfg_options, None, 'none')
        init_default_scope('mmpretrain')
        model = MODELS.build(cfg.model)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'complexity.py: error: {error}')
    if not isinstance(model, RandSAC):
        sys.exit(f'complexity.py: error: {args.config} builds a {type(model).__name__}, not a RandSAC model')
    print(report(model))
    if args.measure:
        print('measured:', ', '.join(f'{part} {count:,}' for part, count in measure(model.eval()).items()))
