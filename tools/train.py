#!/usr/bin/env python
"""Train a model from a config of any OpenMMLab library: pre-training, fine-tuning, segmentation, detection.

Examples:
    python tools/train.py configs/randsac/vit-t_cifar10.py --amp
    python tools/train.py configs/randsac/vit-t_cifar10.py --resume            # continue where the run stopped
    python tools/train.py configs/randsac/vit-t_cifar10.py --epochs 20         # warm-up and decay shrink with it
    python tools/train.py configs/randsac/vit-t_cifar10.py --extend-to 300     # continue a run for longer than planned
    bash tools/dist_train.sh configs/randsac/vit-b_in1k.py 8 --resume auto     # for jobs that may be restarted
"""

import argparse
import os
from typing import Any

from randsac_mm.engine.tool import make_parser, run_tool

from randsac_mm.engine import launch
from randsac_mm.engine.distributed import leave_process_group
from randsac_mm.engine.schedule import set_epochs
from randsac_mm.engine.work_dir import claim_work_dir, use_resume


def work(args: argparse.Namespace) -> None:
    cfg = launch.load_config(args.config, args.cfg_options, args.work_dir, args.launcher)
    with claim_work_dir(cfg.work_dir):
        train(cfg, args)


def train(cfg: Any, args: argparse.Namespace) -> None:
    if args.epochs is not None or args.extend_to is not None:
        set_epochs(cfg, args.epochs if args.extend_to is None else args.extend_to)
    if args.extend_to is not None:
        cfg.default_hooks.checkpoint.new_schedule = True
        args.resume = args.resume or 'latest'
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        launch.use_amp(cfg)
    if args.auto_scale_lr:
        launch.use_auto_scale_lr(cfg)
    resume = args.resume or ('latest' if cfg.get('resume') and not cfg.get('load_from') else None)
    # torchrun starts a job again that has lost a process, and slurm one that it has stopped.
    again = any(int(os.environ.get(name, '0')) for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT'))
    passed: list[str] = []
    resumed = (again and use_resume(cfg, 'auto', passed)) or not resume or use_resume(cfg, resume, passed)
    text = launch.check_data(cfg, 'train', 'val', check=not args.no_check)

    def begin(runner: Any) -> None:
        runner.logger.info(text)
        if passed:
            runner.logger.warning(f'Passed over, for {cfg.load_from}: {"; ".join(passed)}')
        if not resumed:
            runner.logger.warning(
                f'--resume auto: no checkpoint in {runner.work_dir}, so this is a new run from the start'
            )

    launch.train(cfg, begin)
    leave_process_group()


if __name__ == '__main__':
    parser = make_parser(__doc__, launcher=True)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints (default: ./work_dirs/NAME_OF_CONFIG)')
    text = 'continue from the last checkpoint in the work dir ("auto": or start a new run), or from a file or work dir'
    parser.add_argument('--resume', nargs='?', const='latest', metavar='auto|CHECKPOINT', help=text)
    parser.add_argument('--epochs', type=int, help='number of epochs; warm-up and decay of the lr follow')
    parser.add_argument('--extend-to', type=int, metavar='EPOCHS', help='resume with the schedule of a run that long')
    parser.add_argument('--amp', action='store_true', help='compute in bfloat16, on CPUs and GPUs that have it')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the lr by actual over intended batch size')
    parser.add_argument('--no-validate', action='store_true', help='train without validating')
    parser.add_argument('--no-check', action='store_true', help='do not check the data sets before the training')
    run_tool(parser, work)
