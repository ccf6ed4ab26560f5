#!/usr/bin/env python
"""Model on paper what pre-training on ImageNet-1K costs on many GPUs, communication included. Nothing is measured.

A step of p GPUs, each with batch / p images:

    compute     6 x multiply-adds x images / (utilisation x matrix rate); a third forward, two thirds backward
    update      AdamW moves 28 bytes a parameter: weight, gradient and two averages in, weight and averages out
    launch      compute and update take no less than the host needs to start their kernels
    all-reduce  a ring: 2 (p - 1) / p x bytes of gradients / bandwidth of the slowest link: NVLink within a machine, the
                network between machines. And delays for each bucket: 2 (g - 1) hops among the g GPUs of a machine,
                2 log2(n) in the tree that NCCL makes of n machines
    exposed     what does not hide behind the backward pass, of which only a part can hide anything, and always the last
                bucket, which is complete only when the backward pass is

Examples:
    python tools/benchmarks/cost.py
    python tools/benchmarks/cost.py --utilisation 0.4 --network 12.5 --gradients bf16
    python tools/benchmarks/cost.py --write docs/scaling.md           renew the tables of that file
"""

import argparse
import math
import re
from pathlib import Path
from typing import NamedTuple

from step_report import markdown

IMAGES = 1_281_167  # in ImageNet-1K's training set
GPUS = (8, 16, 32, 64, 128, 256)
GRADIENT_BYTES = {'fp32': 4, 'bf16': 2}
_ADAMW_BYTES = 28


class Machine(NamedTuple):
    """Hold what is assumed of the machines; see ``--help`` for units and sources.

    Attributes:
        rate: Matrix rate of a GPU, in FLOP/s.
        utilisation: Part of it that a step reaches.
        memory: Bandwidth of a GPU's memory, in bytes/s.
        per_node: GPUs of a machine.
        nvlink: Bandwidth between the GPUs of a machine that an all-reduce reaches, in bytes/s.
        network: The same between machines, all network cards of a machine together.
        delays: Seconds of one hop within a machine and between machines.
        overlap: Part of the backward pass behind which communication can hide.
        launch: Seconds that the host needs to start all kernels of a step.
        bucket: Bytes of gradients that are sent together.
    """

    rate: float
    utilisation: float
    memory: float
    per_node: int
    nvlink: float
    network: float
    delays: tuple[float, float]
    overlap: float
    launch: float
    bucket: float


class Run(NamedTuple):
    """Hold what is to be trained.

    Attributes:
        multiply_adds: Of a forward pass for one image.
        parameters: Number of learned parameters.
        batch: Images of a step, all GPUs together.
        epochs: Passes over the images.
        gradient_bytes: Bytes of a gradient when it is sent.
        images: Images in an epoch.
    """

    multiply_adds: float
    parameters: float
    batch: int
    epochs: int
    gradient_bytes: int
    images: int = IMAGES


class Step(NamedTuple):
    """Hold the seconds of a step, and what follows from them."""

    compute: float
    update: float
    reduce: float
    exposed: float
    total: float
    hours: float
    gpu_hours: float
    images_per_node: float


def all_reduce_seconds(gpus: int, size: float, machine: Machine) -> float:
    """Give the time of a ring all-reduce.

    Args:
        gpus: Number of GPUs.
        size: Bytes that each of them holds.
        machine: The machines.

    Returns:
        Seconds; 0 for one GPU.
    """
    slowest = machine.nvlink if gpus <= machine.per_node else min(machine.nvlink, machine.network)
    within, nodes = min(gpus, machine.per_node), max(1.0, gpus / machine.per_node)
    hops = 2 * (within - 1) * machine.delays[0] + 2 * math.log2(nodes) * machine.delays[1]
    return 2 * (gpus - 1) / gpus * size / slowest + hops * max(1.0, size / machine.bucket)


def step(gpus: int, run: Run, machine: Machine) -> Step:
    """Model a step.

    Args:
        gpus: Number of GPUs; it divides the batch.
        run: What is trained.
        machine: The machines.

    Raises:
        ValueError: If the batch cannot be divided among the GPUs.
    """
    if gpus < 1 or run.batch % gpus:
        raise ValueError(f'{gpus} GPUs cannot share a batch of {run.batch} images evenly: choose a divisor')
    compute = 6 * run.multiply_adds * run.batch / gpus / (machine.utilisation * machine.rate)
    update = run.parameters * _ADAMW_BYTES / machine.memory
    busy = max(compute + update, machine.launch)
    size = run.parameters * run.gradient_bytes
    reduce = all_reduce_seconds(gpus, size, machine)
    last = reduce * min(1.0, machine.bucket / size)
    exposed = max(last, reduce - machine.overlap * compute * 2 / 3)
    total = busy + exposed
    hours = run.epochs * (run.images // run.batch) * total / 3600
    nodes = max(1.0, gpus / machine.per_node)
    return Step(compute, update, reduce, exposed, total, hours, gpus * hours, run.batch / nodes / total)


def table(run: Run, machine: Machine, images_per_core: float, gpus: tuple[int, ...] = GPUS) -> str:
    """Write the cost of growing numbers of GPUs for people."""
    head = [
        'GPUs', 'images each', 'compute, ms', 'update, ms', 'all-reduce, ms', 'exposed, ms', 'step, ms', 'efficiency',
        'hours', 'GPU-hours', 'images/s a machine', 'its cores, decoding',
    ]  # fmt: skip
    rows, least = [head], None
    for number in gpus:
        cost = step(number, run, machine)
        least = least or cost.gpu_hours
        rows.append(
            [
                str(number),
                str(run.batch // number),
                *(f'{1e3 * seconds:.1f}' for seconds in cost[:5]),
                f'{100 * least / cost.gpu_hours:.0f} %',
                f'{cost.hours:.1f}',
                f'{cost.gpu_hours:,.0f}',
                f'{cost.images_per_node:,.0f}',
                f'{cost.images_per_node / images_per_core:,.0f}',
            ]
        )
    return markdown(rows)


def renew(path: Path, name: str, text: str) -> None:
    """Replace what stands between the marks of a name in a Markdown file.

    Raises:
        ValueError: If the file has no such marks.
    """
    begin, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
    old = path.read_text()
    pattern = re.compile(f'{re.escape(begin)}.*?{re.escape(end)}', re.DOTALL)
    if not pattern.search(old):
        raise ValueError(f'{path} has no lines {begin} and {end} between which the table would go')
    path.write_text(pattern.sub(lambda _: f'{begin}\n\n{text}\n\n{end}', old))


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--multiply-adds', type=float, default=18.88, help='billions for one image, forward (ViT-B, K = 9: 18.88)')
    add('--parameters', type=float, default=142.97, help='millions (ViT-B and its decoder: 142.97)')
    add('--batch', type=int, default=4096, help='images of a step (paper, D.2: 4,096)')
    add('--epochs', type=int, default=1600, help='paper, D.2: 1,600')
    add('--gradients', choices=list(GRADIENT_BYTES), default='fp32', help='as sent (default: fp32, what DDP does)')
    add('--rate', type=float, default=780, help='TFLOP/s of bf16 products (an H200 measured: 769 to 798)')
    add('--utilisation', type=float, default=0.4, help='assumed; derived ceiling 0.44 to 0.49 (default: 0.4)')
    add('--memory', type=float, default=4300, help='GB/s (an H200 measured: 4,300)')
    add('--per-node', type=int, default=8, help='GPUs of a machine (default: 8)')
    add('--nvlink', type=float, default=360, help='GB/s of an all-reduce: 80 %% of 450 each way (data sheet)')
    add('--network', type=float, default=320, help='GB/s of a machine: 80 %% of 8 cards of 400 Gbit/s')
    add(
        '--delays', type=float, nargs=2, default=[1, 10], help='microseconds of a hop in and between machines (assumed)'
    )
    add('--overlap', type=float, default=0.8, help='of the backward pass that can hide communication (assumed)')
    add('--launch', type=float, default=6, help='ms in which the host starts a step (assumed; CUDA graphs: about 0)')
    add('--bucket', type=float, default=25, help="MB, DDP's default")
    add('--images-per-core', type=float, default=100, help='decoded and augmented in a second by a core (assumed)')
    add('--gpus', type=int, nargs='+', default=list(GPUS))
    add('--write', type=Path, metavar='FILE', help='renew the tables of this Markdown file')
    args = parser.parse_args(argv)
    for name in (
        'multiply_adds',
        'parameters',
        'batch',
        'epochs',
        'rate',
        'memory',
        'per_node',
        'nvlink',
        'network',
        'bucket',
    ):
        if getattr(args, name) <= 0:
            parser.error(f'--{name.replace("_", "-")} {getattr(args, name)}: must be positive')
    if not 0 < args.utilisation <= 1 or not 0 <= args.overlap <= 1:
        parser.error(f'--utilisation {args.utilisation} and --overlap {args.overlap}: must be parts of 1')
    if any(number < 1 or args.batch % number for number in args.gpus):
        parser.error(f'--gpus {args.gpus}: each must divide the batch of {args.batch}')
    return args


def main(argv: list[str] | None = None) -> None:
    """Read the command line, print the tables."""
    args = parse_args(argv)
    run = Run(1e9 * args.multiply_adds, 1e6 * args.parameters, args.batch, args.epochs, GRADIENT_BYTES[args.gradients])
    machine = Machine(
        1e12 * args.rate,
        args.utilisation,
        1e9 * args.memory,
        args.per_node,
        1e9 * args.nvlink,
        1e9 * args.network,
        (1e-6 * args.delays[0], 1e-6 * args.delays[1]),
        args.overlap,
        1e-3 * args.launch,
        1e6 * args.bucket,
    )
    tables = {'cost': table(run, machine, args.images_per_core, tuple(args.gpus))}
    slow = machine._replace(network=10e9)
    tables['cost, slow network'] = table(run, slow, args.images_per_core, tuple(args.gpus))
    tables['cost, slow network, bf16'] = table(
        run._replace(gradient_bytes=2), slow, args.images_per_core, tuple(args.gpus)
    )
    for name, text in tables.items():
        print(f'{name}\n\n{text}\n')
        if args.write:
            renew(args.write, name, text)


if __name__ == '__main__':
    main()
