#!/usr/bin/env python
"""Evaluate a trained model on the test set of its config (classification, segmentation, detection).

Example:
    python tools/test.py CONFIG work_dirs/NAME/epoch_100.pth --out metrics.json
"""

import argparse
from pathlib import Path

from randsac_mm.engine.tool import make_parser, run_tool

import mmengine
from mmengine.evaluator import DumpResults

from randsac_mm.engine import launch
from randsac_mm.engine.distributed import leave_process_group
from randsac_mm.engine.resources import ending_workers


def work(args: argparse.Namespace) -> None:
    if args.out and Path(args.out).suffix not in ('.json', '.pkl'):
        raise ValueError(f'--out {args.out}: its name must end in .json (metrics) or .pkl (predictions)')
    cfg = launch.load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    launch.check_data(cfg, 'test', check=not args.no_check)
    runner = launch.build_test_runner(cfg, args.checkpoint)
    if args.out and args.out.endswith('.pkl'):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    with ending_workers(runner):
        metrics = runner.test()
    if args.out and args.out.endswith('.json') and runner.rank == 0:
        mmengine.dump({name: float(value) for name, value in metrics.items()}, args.out, indent=2)
    del runner
    leave_process_group()


if __name__ == '__main__':
    parser = make_parser(__doc__, launcher=True)
    parser.add_argument('config', help='config file with a test_dataloader')
    parser.add_argument('checkpoint', help='checkpoint whose weights fit the config, every one of them')
    parser.add_argument('--work-dir', help='folder for logs (default: ./work_dirs/NAME_OF_CONFIG)')
    parser.add_argument('--out', help='also write FILE.json: the metrics, or FILE.pkl: every prediction')
    parser.add_argument('--no-check', action='store_true', help='do not check the data set before the test')
    run_tool(parser, work)
