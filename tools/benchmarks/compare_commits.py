#!/usr/bin/env python
"""Time the pre-training step of this clone and of another one on the CPU in alternating rounds, and print the ratio.

Each clone builds the model of its own copy of a config in a worker process and trains it on random images. The workers
take turns, so that both see the same noise of the machine.

Example:
    python tools/benchmarks/compare_commits.py --baseline ../old --config configs/randsac/vit-b_k9_in1k.py \
        --baseline-setup "from randsac_mm.kernels import use_linear; use_linear('onednn')"
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import measure
import torch

# Freed memory stays with the process, as in training.
KEEP_MEMORY = {'MALLOC_MMAP_THRESHOLD_': '2147483647', 'MALLOC_TRIM_THRESHOLD_': '2147483647'}


def work(args: argparse.Namespace) -> None:
    """Train the model: write the loss of the first step, then the seconds of a step for every line that is read."""
    answers = os.fdopen(os.dup(1), 'w', buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    from mmengine.config import Config
    from mmengine.registry import init_default_scope
    from mmpretrain.registry import MODELS

    from randsac_mm.engine import compile_model

    exec(args.baseline_setup)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromfile(args.config).model).train()
    images = torch.randn(args.batch, model.backbone.in_channels, *model.backbone.img_size)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    if args.compile:
        compile_model(model)

    def step() -> float:
        with torch.autocast('cpu', measure.DTYPES[args.dtype], enabled=args.dtype != 'fp32'):
            loss = model.loss(images)['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    print(step(), file=answers)
    step()
    for _ in sys.stdin:
        print(measure.seconds_of(step, torch.device('cpu')), file=answers)


def start(clone: Path, setup: str, argv: list[str]) -> subprocess.Popen:
    """Start the worker of a clone."""
    path = os.pathsep.join(filter(None, [str(clone), os.environ.get('PYTHONPATH')]))
    command = [sys.executable, __file__, *argv, '--worker', '--baseline-setup', setup]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    return subprocess.Popen(command, cwd=clone, env={**os.environ, **KEEP_MEMORY, 'PYTHONPATH': path}, **pipes)


def ask(worker: subprocess.Popen, question: str = '') -> float:
    """Send a line to a worker, if there is one, and read a number."""
    worker.stdin.write(question)
    answer = worker.stdout.readline()
    return float(answer) if answer else sys.exit(f'compare_commits.py: error: a worker ended with {worker.wait()}')


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--baseline', type=Path, required=True, metavar='CLONE', help='the other clone')
    parser.add_argument('--baseline-setup', default='', metavar='CODE', help='Python code that it runs first')
    parser.add_argument('--config', required=True, help='path of the config in both clones')
    parser.add_argument('--batch', type=measure.positive, default=4)
    parser.add_argument('--dtype', choices=list(measure.DTYPES), default='fp32')
    parser.add_argument('--compile', action='store_true')
    parser.add_argument('--rounds', type=measure.positive, default=15)
    parser.add_argument('--out', type=Path, metavar='STEM', help='write STEM.json and STEM.md')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        work(args)
        return
    setups = {'this': (measure.ROOT, ''), 'baseline': (args.baseline.resolve(), args.baseline_setup)}
    workers = {name: start(*setup, argv) for name, setup in setups.items()}
    report = {'environment': measure.environment(torch.device('cpu'))}
    report['losses'] = {name: ask(worker) for name, worker in workers.items()}
    report['seconds'] = seconds = {name: [] for name in workers}
    for order in measure.turns(list(workers), args.rounds):
        for name in order:
            seconds[name].append(ask(workers[name], 'step\n'))
    for worker in workers.values():
        worker.communicate()
    report['ratio'] = measure.median_ratio(seconds['this'], seconds['baseline'])
    table = [['clone', 'first loss', 'ms', 'quartiles']]
    for name in workers:
        time = measure.spread(seconds[name])
        low, high = (f'{1e3 * value:.1f}' for value in time['quartiles'])
        table.append([name, f'{report["losses"][name]:.6f}', f'{1e3 * time["median"]:.1f}', f'{low} .. {high}'])
    text = f'{measure.markdown(table)}\n\nthis / baseline, median of {args.rounds} rounds: {report["ratio"]:.3f}'
    print(text)
    measure.write_report(report, text, args.out)


if __name__ == '__main__':
    main()
