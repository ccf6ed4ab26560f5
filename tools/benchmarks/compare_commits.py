#!/usr/bin/env python
"""Time the pre-training step of this clone and of another one on the CPU in turns, and print the ratio.

Each clone (as of ``git worktree add``) trains the model of its own copy of a config on random images.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

# Freed memory stays with the process, as in training.
MALLOC = {'MALLOC_MMAP_THRESHOLD_': '2147483647', 'MALLOC_TRIM_THRESHOLD_': '2147483647'}


def work(args: argparse.Namespace) -> None:
    """Train the model; write the loss of the first step, then the seconds of a step for every line that is read."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    from mmengine.config import Config
    from mmpretrain.registry import MODELS

    from randsac_mm.engine import compile_model

    exec(args.setup)
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(args.config).model).train()
    images = torch.randn(args.batch, model.backbone.in_channels, *model.backbone.img_size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    if args.compile:
        compile_model(model)

    def step() -> float:
        with torch.autocast('cpu', torch.bfloat16, enabled=args.bf16):
            loss = model.loss(images)['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    print(step(), file=answers)
    step()
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, file=answers)


def read_number(worker: subprocess.Popen) -> float:
    """Read a number from a worker."""
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
        environment = {**os.environ, **MALLOC, 'PYTHONPATH': str(clone)}
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        workers.append(subprocess.Popen(command, cwd=clone, env=environment, **pipes))
    losses = [read_number(worker) for worker in workers]
    seconds: tuple[list[float], list[float]] = [], []
    for i in range(args.rounds):
        for which in (1, 0) if i % 2 else (0, 1):
            workers[which].stdin.write('step\n')
            seconds[which].append(read_number(workers[which]))
    for name, worker, loss, times in zip(('this', 'baseline'), workers, losses, seconds, strict=True):
        worker.communicate()
        print(f'{name:8}  first loss {loss:.6f}  {1e3 * statistics.median(times):.1f} ms')
    ratios = [this / baseline for this, baseline in zip(*seconds, strict=True)]
    print(f'this / baseline, median of {args.rounds} rounds: {statistics.median(ratios):.3f}')


if __name__ == '__main__':
    main()
