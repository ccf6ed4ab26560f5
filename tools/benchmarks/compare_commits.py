#!/usr/bin/env python
"""Time the training step of this clone and of another one on the CPU in turns, and print the ratio.

Each clone (as of ``git worktree add``) runs its own copy of a config on random images, with its own hooks: a step is
all that happens from one batch to the next.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

import torch

# Freed memory stays with the process and threads do not spin for long, as in training.
ENVIRONMENT = {'GOMP_SPINCOUNT': '1000', 'MALLOC_MMAP_THRESHOLD_': '2147483647', 'MALLOC_TRIM_THRESHOLD_': '2147483647'}


def work(args: argparse.Namespace) -> None:
    """Train a step for every line that is read; write the loss of the first one, of all others the seconds."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    from mmengine.hooks import Hook
    from mmengine.registry import DATASETS

    from randsac_mm.engine import launch

    class RandomImages(torch.utils.data.Dataset):
        metainfo: ClassVar[dict] = {}

        def __init__(self, shape: tuple[int, ...]) -> None:
            self.images = torch.randint(256, (args.batch, *shape), dtype=torch.uint8)

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> dict:
            return {'inputs': self.images[int(index) % len(self.images)]}

    class Turns(Hook):
        priority = 'HIGHEST'
        start = None

        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if self.start is not None and runner.iter > 1:
                print(time.perf_counter() - self.start, file=answers)
            if not sys.stdin.readline():
                os._exit(0)
            self.start = time.perf_counter()

        def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
            if runner.iter == 0:
                print(outputs['loss'].item(), file=answers)

    exec(args.setup)
    with tempfile.TemporaryDirectory() as folder:
        cfg = launch.load_config(args.config, {'default_hooks.logger.interval': 10**6}, folder, 'none')
        cfg.optim_wrapper.type = 'OptimWrapper'
        if args.bf16:
            launch.use_amp(cfg)
        cfg.default_hooks.compile = dict(type='CompileHook', enabled=args.compile)
        DATASETS.register_module(module=RandomImages)
        shape = cfg.model.backbone.get('in_channels', 3), *2 * (cfg.model.backbone.img_size,)
        cfg.train_dataloader.update(batch_size=args.batch, num_workers=0, persistent_workers=False)
        cfg.train_dataloader.collate_fn = dict(type='default_collate')
        cfg.train_dataloader.dataset = dict(type='mmengine.RandomImages', shape=shape)
        cfg.custom_hooks = []
        runner = launch.build_runner(cfg)
        runner.register_hook(Turns())
        runner.train()


def measure(worker: subprocess.Popen) -> float:
    """Let a worker train a step; return its seconds, of the first step the loss."""
    worker.stdin.write('step\n')
    answer = worker.stdout.readline()
    return float(answer) if answer else sys.exit(f'compare_commits.py: error: a worker ended with {worker.wait()}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('baseline', type=Path, metavar='CLONE', help='the other clone')
    parser.add_argument('--setup', default='', metavar='CODE', help='Python code that the other clone runs first')
    parser.add_argument('--config', required=True, help='path of the config in both clones')
    parser.add_argument('--batch', type=int, default=4)
    parser.add_argument('--bf16', action='store_true')
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    workers = []
    for clone, setup in ((Path(__file__).resolve().parents[2], ''), (args.baseline.resolve(), args.setup)):
        command = [sys.executable, __file__, *sys.argv[1:], '--worker', '--setup', setup]
        environment = {**os.environ, **ENVIRONMENT, 'PYTHONPATH': str(clone)}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        workers.append(subprocess.Popen(command, cwd=clone, env=environment, **pipes))
    losses = [measure(worker) for worker in workers]  # in turns from the first step on
    for worker in workers:
        measure(worker)
    seconds: tuple[list[float], list[float]] = [], []
    for i in range(args.rounds):
        for which in (1, 0) if i % 2 else (0, 1):
            seconds[which].append(measure(workers[which]))
    for name, worker, loss, times in zip(('this', 'baseline'), workers, losses, seconds, strict=True):
        worker.communicate()
        print(f'{name:8}  first loss {loss:.6f}  {1e3 * statistics.median(times):.1f} ms')
    ratios = [this / baseline for this, baseline in zip(*seconds, strict=True)]
    print(f'this / baseline, median of {args.rounds} rounds: {statistics.median(ratios):.3f}')


if __name__ == '__main__':
    main()
