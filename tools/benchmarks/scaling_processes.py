"""Efficiency of two processes against one: data-parallel training on two cores, one for each process.

Weak scaling: every process has as many images as the single one. Three runs: one process; two that never exchange
anything, which shows what they take from each other (memory, caches, clock); two that average their gradients.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time

import torch
import torch.distributed as dist
from step_models import KNOWN, build_model
from step_report import markdown
from torch.nn.parallel import DistributedDataParallel

RUNS = ('one', 'two apart', 'two')
_PORT = 29541


def measure_processes(rounds: int, model: str = 'vit-t', batch: int = 32) -> list[dict]:
    """Time the three runs, in turns.

    Args:
        rounds: Timed steps of each run, in all.
        model: Name of the model.
        batch: Images a step and process.

    Returns:
        One row for each run: seconds of a step, images a second of all processes, and efficiency.

    Raises:
        RuntimeError: If a run fails.
    """
    seconds: dict[str, list[float]] = {run: [] for run in RUNS}
    for i in range(2):  # twice, in opposite order, so that a machine that grows slower favours nobody
        for run in RUNS[:: 1 if i == 0 else -1]:
            seconds[run] += _run(run, model, batch, max(2, rounds // 2))
    return efficiency({run: sorted(values)[len(values) // 2] for run, values in seconds.items()}, batch)


def efficiency(seconds: dict[str, float], batch: int) -> list[dict]:
    """Turn the seconds of a step into efficiencies.

    Args:
        seconds: Of each run.
        batch: Images a step and process.

    Returns:
        Rows; the ideal ``efficiency`` is 1: two processes do twice as much in the same time.

    Example:
        >>> [row['efficiency'] for row in efficiency({'one': 1.0, 'two apart': 1.25, 'two': 2.0}, 8)]
        [1.0, 0.8, 0.5]
    """
    return [
        {
            'run': run,
            'seconds': value,
            'images_per_second': (1 if run == 'one' else 2) * batch / value,
            'efficiency': seconds['one'] / value,
        }
        for run, value in seconds.items()
    ]


def processes_table(rows: list[dict]) -> str:
    """Write the rows for people."""
    cells = [['processes', 'ms', 'images/s', 'efficiency']]
    cells += [
        [r['run'], f'{1e3 * r["seconds"]:.0f}', f'{r["images_per_second"]:.1f}', f'{r["efficiency"]:.2f}'] for r in rows
    ]
    return markdown(cells)


def _run(run: str, model: str, batch: int, steps: int) -> list[float]:
    processes = 1 if run == 'one' else 2
    launcher = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        f'--nproc_per_node={processes}',
        f'--master_port={_PORT}',
    ]
    options = ['--model', model, '--batch', str(batch), '--steps', str(steps), *(['--apart'] if 'apart' in run else [])]
    done = subprocess.run(
        [*launcher, __file__, *options],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    if done.returncode:
        raise RuntimeError(f'{run}: the processes ended with {done.returncode}:\n{done.stderr[-2000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Be one of the processes: train, and let the first one print its seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--model', choices=list(KNOWN), required=True)
    parser.add_argument('--batch', type=int, required=True)
    parser.add_argument('--steps', type=int, required=True)
    parser.add_argument('--apart', action='store_true', help='exchange nothing')
    args = parser.parse_args()
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(args.model)
    draw, size = model.data_preprocessor.draw, model.backbone.img_size
    images = torch.randn(args.batch, 3, *size)
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    seconds = []
    for _ in range(args.steps + 1):
        dist.barrier()
        begin = time.perf_counter()
        with parallel.no_sync() if args.apart else contextlib.nullcontext():
            parallel(images, mode='loss', **draw(images))['loss'].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        dist.barrier()  # the slower one counts
        seconds.append(time.perf_counter() - begin)
    if dist.get_rank() == 0:
        print(json.dumps(seconds[1:]))
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
