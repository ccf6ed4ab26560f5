#!/usr/bin/env python
"""Evaluate a trained model on the test set of its config (classification, segmentation, detection).

Example:
    python tools/test.py CONFIG work_dirs/NAME/epoch_100.pth --out metrics.json
"""

import argparse
import os
import sys
from pathlib import Path

import mmengine
from mmengine.config import DictAction
from mmengine.evaluator import DumpResults

from randsac_mm.engine import launch
from randsac_mm.engine.distributed import leave_process_group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file with a test_dataloader')
    parser.add_argument('checkpoint', help='checkpoint whose weights fit the config, every one of them')
    parser.add_argument('--work-dir', help='folder for logs (default: ./work_dirs/NAME_OF_CONFIG)')
    parser.add_argument('--out', help='also write FILE.json: the metrics, or FILE.pkl: every prediction')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    # torch.distributed.launch passes it, in one spelling or the other; torchrun sets the variable itself.
    parser.add_argument('--local_rank', '--local-rank', default='0', help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', args.local_rank)
    if args.out and Path(args.out).suffix not in ('.json', '.pkl'):
        parser.error(f'--out {args.out}: its name must end in .json (metrics) or .pkl (predictions)')
    try:
        cfg = launch.load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
        runner = launch.build_test_runner(cfg, args.checkpoint)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f'test.py: error: {error}')
    if args.out and args.out.endswith('.pkl'):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out and args.out.endswith('.json') and runner.rank == 0:
        mmengine.dump({name: float(value) for name, value in metrics.items()}, args.out, indent=2)
    del runner
    leave_process_group()


if __name__ == '__main__':
    main()
