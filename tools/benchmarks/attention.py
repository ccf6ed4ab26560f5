#!/usr/bin/env python
"""Time attention alone, forward and backward, by every back-end that works here.

Queries, keys and values are as a model's projections leave them, ranks are those of nine segments, sorted and shared by
the batch, or shuffled for every image with ``--per-image``. All back-ends run in one process, in turns, on the same
numbers, and are compared with float64 first.

Example:
    python tools/benchmarks/attention.py                               what suits the device
    python tools/benchmarks/attention.py --dtype bf16 --backends sdpa triton --out docs/results --name attention_gpu
"""

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from measure import environment, median_ratio, now, rounds_until, saved_bytes, spread
from step_report import markdown, write_json
from torch import Tensor

from randsac_mm.kernels import ATTENTION_BACKENDS, Mask, attention, attention_backends, make_mask, use_attention

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
COMPILED = 'plain-compiled'
BACKENDS = (*ATTENTION_BACKENDS[:2], COMPILED, 'triton', 'flex')  # what compiles longest comes last
SEGMENTS = 9
AT_LEAST = 5  # rounds
TURN = {'cpu': 0.02, 'cuda': 0.005}  # seconds that a turn lasts at least, by repetition
COLUMNS = ('attention', 'ms', 'quartiles', '/ sdpa', 'TFLOP/s', 'kept MB', 'error', 'ready after s')
LEGEND = """\
ms: forward and backward, median over rounds. / sdpa: time over that of sdpa, median over rounds. TFLOP/s: operations
that the result needs (backward twice forward, masked pairs counted in full). kept: what the forward pass keeps for the
backward pass, inputs included. error: largest of output and gradients against float64, as part of the largest number.
ready after: first forward and backward, compiling included."""


class Shape(NamedTuple):
    """Describe the attention of one model: h heads of d dims over N tokens; images on CPU and CUDA."""

    heads: int
    dims: int
    tokens: int
    images: dict[str, int]


SHAPES = {
    'vit-b/128': Shape(12, 64, 128, dict(cpu=8, cuda=256)),
    'vit-s/196': Shape(6, 64, 196, dict(cpu=8, cuda=256)),
    'vit-t/64': Shape(3, 64, 64, dict(cpu=32, cuda=1024)),
    'vit-b/144': Shape(12, 64, 144, dict(cpu=8, cuda=256)),
}
SMOKE = {'tiny/20': Shape(2, 16, 20, dict(cpu=2, cuda=2))}


class Problem(NamedTuple):
    """Hold queries, keys, values (B, h, N, d), ranks (B or 1, N) and the gradient of the output (B, N, h * d)."""

    tensors: tuple[Tensor, ...]
    rank: Tensor
    grad: Tensor

    def part(self, images: int, dtype: torch.dtype) -> 'Problem':
        """Take the first images, in another type."""
        tensors = tuple(tensor.detach()[:images].to(dtype).requires_grad_() for tensor in self.tensors)
        return Problem(tensors, self.rank[:images], self.grad[:images].to(dtype))


def make_problem(shape: Shape, images: int, per_image: bool, device: torch.device, dtype: torch.dtype) -> Problem:
    """Draw a problem, the same on every device."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(images, shape.tokens, 3 * shape.heads * shape.dims, generator=generator).to(device, dtype)
    tensors = qkv.unflatten(2, (3, shape.heads, shape.dims)).permute(2, 0, 3, 1, 4).unbind(0)
    rank = torch.arange(shape.tokens).mul(SEGMENTS).div(shape.tokens, rounding_mode='floor').int()[None]
    if per_image:
        order = torch.rand(images, shape.tokens, generator=generator).argsort(dim=1)
        rank = rank.expand(images, -1).gather(1, order)
    grad = torch.randn(images, shape.tokens, shape.heads * shape.dims, generator=generator).to(device, dtype)
    return Problem(tuple(tensor.requires_grad_() for tensor in tensors), rank.to(device), grad)


def run(attend: Callable, problem: Problem, mask: Mask) -> tuple[Tensor, ...]:
    """Compute the output and the three gradients."""
    out = attend(*problem.tensors, mask)
    return out, *torch.autograd.grad(out, problem.tensors, problem.grad)


class Contender:
    """Hold one back-end at work on one problem.

    Args:
        name: A back-end, or ``'plain-compiled'``.
        problem: What it computes.
    """

    def __init__(self, name: str, problem: Problem) -> None:
        self.backend = 'plain' if name == COMPILED else name
        self.problem, self.device = problem, problem.rank.device
        self.attend = torch.compile(attention, dynamic=False, fullgraph=True) if name == COMPILED else attention
        self.times: list[float] = []
        self.row: dict[str, object] = {}

    def prepare(self) -> None:
        """Compile, compare with float64, and note what is kept for the backward pass."""
        begin = now(self.device)
        with use_attention(self.backend):
            self.mask = make_mask(self.problem.rank, self.problem.rank, self.problem.grad.dtype)
            run(self.attend, self.problem, self.mask)
            self.row['ready_after_seconds'] = now(self.device) - begin
            self.row['kept_bytes'] = saved_bytes(lambda: self.attend(*self.problem.tensors, self.mask))
            few = self.problem.part(2, self.problem.grad.dtype)
            results = run(attention, few, make_mask(few.rank, few.rank, few.grad.dtype))
        exact = self.problem.part(2, torch.float64)
        with use_attention('plain'):
            expected = run(attention, exact, make_mask(exact.rank, exact.rank, torch.float64))
        pairs = zip(results, expected, strict=True)
        self.row['error'] = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs)
        if not math.isfinite(self.row['error']):
            raise ArithmeticError('it gives numbers that are not finite')

    def turn(self, repetitions: int) -> float:
        """Attend some times, forward and backward; give the seconds of one."""
        with use_attention(self.backend):
            begin = now(self.device)
            for _ in range(repetitions):
                run(self.attend, self.problem, self.mask)
            return (now(self.device) - begin) / repetitions


def measure(shape: Shape, problem: Problem, names: list[str], rounds: int, deadline: float | None) -> dict[str, dict]:
    """Time back-ends in turns, each round beginning with another one."""
    contenders, rows = {}, {}
    for name in names:
        contender = Contender(name, problem)
        try:
            contender.prepare()
            contender.turn(2)
        except Exception as error:  # a back-end that fails here must not take the others along
            rows[name] = {'left_out': f'{type(error).__name__}: {error}'.partition('\n')[0]}
        else:
            contenders[name] = contender
    device = problem.rank.device
    for contender in contenders.values():
        contender.repetitions = max(1, math.ceil(TURN[device.type] / contender.turn(1)))
    names = list(contenders)
    for i in rounds_until(AT_LEAST, rounds, deadline):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            contenders[name].times.append(contenders[name].turn(contenders[name].repetitions))
    operations = 12 * problem.grad.shape[0] * shape.heads * shape.tokens**2 * shape.dims
    for name, contender in contenders.items():
        time_ = spread(contender.times)
        rows[name] = contender.row | {'seconds': time_, 'flops': operations / time_['median']}
        if 'sdpa' in contenders:
            rows[name]['ratio_to_sdpa'] = median_ratio(contender.times, contenders['sdpa'].times)
    return rows


def table(name: str, rows: dict[str, dict]) -> str:
    """Write the figures of one shape for people."""
    lines = [list(COLUMNS)]
    left_out = [f'{name} without {backend}: {row["left_out"]}' for backend, row in rows.items() if 'left_out' in row]
    for backend, row in rows.items():
        if 'left_out' in row:
            continue
        low, high = (f'{1e3 * value:.3f}' for value in row['seconds']['quartiles'])
        lines.append(
            [
                f'{name} {backend}',
                f'{1e3 * row["seconds"]["median"]:.3f}',
                f'{low}-{high}',
                f'{row["ratio_to_sdpa"]:.2f}' if 'ratio_to_sdpa' in row else '',
                f'{row["flops"] / 1e12:.3g}',
                f'{row["kept_bytes"] / 1e6:.1f}',
                f'{row["error"]:.0e}',
                f'{row["ready_after_seconds"]:.1f}',
            ]
        )
    return '\n\n'.join([*left_out, markdown(lines)])


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--shapes', nargs='+', choices=list(SHAPES), default=list(SHAPES), metavar='SHAPE')
    parser.add_argument('--backends', nargs='+', choices=BACKENDS, default=list(BACKENDS), metavar='BACKEND')
    parser.add_argument('--device', default='auto', help='auto: CUDA if there is one (default)')
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32')
    parser.add_argument('--images', type=int, help='default: by shape and device')
    parser.add_argument('--per-image', action='store_true', help='a mask for every image instead of one for all')
    parser.add_argument('--rounds', type=int, default=21, help=f'at least {AT_LEAST} (default: 21)')
    parser.add_argument('--budget', type=float, help='seconds for everything; then only the least number of rounds')
    parser.add_argument('--smoke', action='store_true', help='one tiny shape, to see that all works')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='write NAME.json and NAME.md there')
    parser.add_argument('--name', default='attention', help='of the files in --out (default: attention)')
    args = parser.parse_args()
    if args.rounds < AT_LEAST:
        parser.error(f'--rounds {args.rounds}: at least {AT_LEAST}, a median of fewer means nothing')
    if args.device == 'auto':
        args.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    args.device = torch.device(args.device)
    return args


def main() -> None:
    args = parse_args()
    begin = time.perf_counter()
    missing = attention_backends(args.device)
    names = [name for name in args.backends if missing.get(name) is None]
    report = {**environment(args.device), 'dtype': args.dtype, 'per_image': args.per_image, 'shapes': {}}
    text = [f'Attention, forward and backward, {args.dtype}, {report["hardware"]}, torch {report["torch"]}']
    text += [f'without {name}: {missing[name]}' for name in args.backends if missing.get(name)]
    shapes = SMOKE if args.smoke else {name: SHAPES[name] for name in args.shapes}
    for i, (name, shape) in enumerate(shapes.items(), start=1):
        deadline = begin + args.budget * i / len(shapes) if args.budget else None
        images = args.images or shape.images[args.device.type]
        problem = make_problem(shape, images, args.per_image, args.device, DTYPES[args.dtype])
        rows = measure(shape, problem, names, args.rounds, deadline)
        report['shapes'][name] = dict(images=images, heads=shape.heads, dims=shape.dims, tokens=shape.tokens, rows=rows)
        text.append(table(name, rows))
        if args.out:
            write_json(args.out, args.name, report)
            (args.out / f'{args.name}.md').write_text('\n\n'.join([*text, LEGEND]) + '\n')
    print('\n\n'.join([*text, LEGEND]))


if __name__ == '__main__':
    main()
