#!/usr/bin/env python
"""Time a pre-training step of RandSAC beside PyTorch's own layers and mmpretrain's MAE.

A step: draw the serialization, forward, loss, backward, AdamW, on images on the device. All variants of a model run in
one process, in turns, and are compared to the first. Those of RandSAC must compute the same loss from the same weights.

Variants:
    eager, compiled, graphs    ours; `:plain`, `:sdpa` or `:triton` behind it sets the attention, `+torch` PyTorch's
                               float32 product on any CPU, `+uncut` all tokens but one at each end for images of
                               blobs (default: the rules of the package)
    units, whole               compiled once for each kind of layer, and as one (compiled: by the rule)
    plain, plain-compiled      PyTorch's transformer layers: all tokens, additive masks for each image
    mae, mae-compiled          mmpretrain's MAE, same encoder, 224 px

Example:
    python tools/benchmarks/step.py --models vit-s --dtype bf16 --variants compiled compiled:sdpa eager
"""

import argparse
import gc
import importlib
import sys
import time
import traceback
from collections.abc import Callable
from itertools import product
from statistics import median
from typing import NamedTuple
from unittest import mock

import measure

import torch
from kernel_kinds import time_by_kind
from matrix_rate import linear_shapes, matrix_rates
from plain_model import PlainRandSAC
from step_models import KNOWN, build_mae, build_model
from torch import Tensor

from randsac_mm.complexity import count_executed
from randsac_mm.engine import compile_model
from randsac_mm.engine.resources import keep_freed_memory

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
OURS = ('eager', 'compiled', 'units', 'whole', 'graphs')
NAMES = [
    *map(''.join, product(OURS, ('', ':plain', ':sdpa', ':triton'), ('', '+torch', '+uncut'))),
    *('plain', 'plain-compiled', 'mae', 'mae-compiled'),
]
DEFAULT = ['compiled', 'eager', 'eager+torch', 'plain', 'mae-compiled', 'mae']
COLUMNS = ('variant', 'multiply-adds', 'images/s', 'step', 'quartiles', '/ first', 'of rate', 'memory', 'first step')
LEGEND = """\
multiply-adds: of one image's forward pass. step: ms. / first: time over that of the first variant. of rate: operations
that the result needs (closed form, backward twice forward, masked pairs counted) per second, over the rate of the
model's linear layers in the same round, of each product the fastest kernel; all medians of rounds. memory: peak GB of a
GPU that training adds, with weights and optimiser. first step: its seconds, with compiling."""


class Variant(NamedTuple):
    """One way to take a training step, with weights and an optimiser of its own."""

    step: Callable[[], Tensor]  # draws a serialization and returns the loss
    operations: int  # that a step needs, all images together


def make_variant(name: str, model_name: str, batch: int, device: torch.device, dtype: torch.dtype) -> Variant:
    """Make a variant; all variants of RandSAC start from the same weights and see the same images."""
    base, _, attention = name.partition('+')[0].partition(':')
    kind, _, compiled = base.partition('-')
    torch.manual_seed(0)
    model = build_model(model_name, attention=attention or 'auto').to(device)
    size, multiply_adds = model.backbone.img_size, count_executed(model)
    draw, compute = model.data_preprocessor.draw, model.loss
    if kind == 'plain':
        model = compute = PlainRandSAC(model).to(device)
    elif kind == 'mae':
        model = build_mae(model).to(device)
        size, draw, compute = model.backbone.img_size, lambda images: {'data_samples': None}, model.loss
        multiply_adds = count_executed(model)
    elif kind != 'eager':
        whole = {'units': False, 'whole': True, 'graphs': True}.get(kind)
        compile_model(model, mode='reduce-overhead' if kind == 'graphs' else None, whole=whole)
    if name.endswith('+uncut'):
        model._count_groups = lambda rank: 0
    if compiled:
        compute = torch.compile(compute)
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    learned = [p for p in model.parameters() if p.requires_grad]
    # Baselines get PyTorch's default AdamW for the device, ours the fused one that its configs choose.
    optimizer = torch.optim.AdamW(learned, lr=1e-5, weight_decay=0.05, fused=True if kind in OURS else None)

    def step() -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        drawn = draw(images)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = compute(images, **drawn)['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    if name.endswith('+torch'):
        kernels = importlib.import_module('randsac_mm.kernels.linear')
        step = mock.patch.object(kernels, 'ONEDNN', False)(step)
    return Variant(step, 6 * batch * multiply_adds)


def prepare(name: str, model_name: str, batch: int, device: torch.device, dtype: torch.dtype) -> tuple[Variant, dict]:
    """Make a variant and take two steps; return the first loss too, and what the steps cost."""
    gpu = device if device.type == 'cuda' else None
    before = torch.cuda.memory_allocated(gpu)  # 0 without a GPU
    variant = make_variant(name, model_name, batch, device, dtype)
    torch.manual_seed(0)
    start = time.perf_counter()
    loss = variant.step().item()  # whatever is compiled is compiled now
    seconds = time.perf_counter() - start
    gc.collect()
    if gpu:
        torch.cuda.reset_peak_memory_stats(gpu)
    variant.step()
    memory = torch.cuda.max_memory_allocated(gpu) - before
    return variant, {'loss': loss, 'first_step_seconds': seconds, 'memory_bytes': memory or None}


def benchmark(model_name: str, args: argparse.Namespace, report: dict) -> None:
    """Time the variants of one model; the report is written after each of them and after each round."""
    device, dtype = args.device, DTYPES[args.dtype]
    batch = args.batch or KNOWN[model_name].batch[device.type == 'cuda']
    rows, variants = {}, {}
    expected = None  # the first loss of RandSAC
    result = dict(model=model_name, batch=batch, dtype=args.dtype, rounds=0, matrix_rates={}, variants=rows)
    report['models'].append(result)
    for name in args.variants:
        try:
            variant, rows[name] = prepare(name, model_name, batch, device, dtype)
            rows[name]['multiply_adds'] = variant.operations // (6 * batch)  # of one image's forward pass
            if not name.startswith('mae'):
                loss = rows[name]['loss']
                expected = expected or loss
                if not abs(loss - expected) <= (1e-5 if dtype == torch.float32 else 5e-3) * expected:
                    raise ArithmeticError(f'its loss is {loss:.6f}, that of the first variant {expected:.6f}')
            if args.rounds:
                variants[name] = variant
        except Exception as error:  # the figures of the others are worth having
            traceback.print_exc()
            rows[name] = {'failed': f'{type(error).__name__}: {error}'.splitlines()[0]}
        print(f'{model_name} {name}: {rows[name]}', flush=True)
        write(report, args)
    model = build_model(model_name).to(device)
    shapes = linear_shapes(model, lambda: model.loss(torch.zeros(batch, 3, *model.backbone.img_size, device=device)))
    steps = {name: variant.step for name, variant in variants.items()}
    first, rounds = next(iter(variants), None), []
    for seconds in measure.timed_rounds(steps, args.rounds, device, args.steps):
        rounds.append((seconds, matrix_rates(shapes, device, dtype)))
        result['rounds'] = len(rounds)
        for kernel in rounds[0][1]:
            result['matrix_rates'][kernel] = measure.spread([rates[kernel] for _, rates in rounds])
        for name, variant in variants.items():
            row = rows[name]
            row['step'] = measure.spread([seconds[name] for seconds, _ in rounds])
            row['images_per_second'] = batch / row['step']['median']
            # Medians of ratios: both values of a round saw the same noise of the machine.
            row['ratio'] = median(seconds[name] / seconds[first] for seconds, _ in rounds)
            row['utilisation'] = median(variant.operations / seconds[name] / rates['best'] for seconds, rates in rounds)
        write(report, args)
    for name, variant in variants.items() if args.kinds else ():
        rows[name]['kinds'] = time_by_kind(variant.step, device)
        write(report, args)


def describe(result: dict) -> str:
    """Return the figures of one model as Markdown."""
    table = [COLUMNS]
    for name, row in result['variants'].items():
        if 'step' not in row:
            table.append([f'{name}: {row.get("failed", "not timed")}', *[''] * (len(COLUMNS) - 1)])
            continue
        middle, low, high = (f'{1e3 * value:.1f}' for value in (row['step']['median'], *row['step']['quartiles']))
        memory = f'{row["memory_bytes"] / 1e9:.2f}' if row['memory_bytes'] else ''
        cells = [f'{row["ratio"]:.2f}', f'{100 * row["utilisation"]:.1f} %', memory, f'{row["first_step_seconds"]:.1f}']
        work, speed = f'{row["multiply_adds"] / 1e9:.2f} G', f'{row["images_per_second"]:.1f}'
        table.append([name, work, speed, middle, f'{low} .. {high}', *cells])
    rates = [f'{name} {rate["median"] / 1e9:,.0f}' for name, rate in result['matrix_rates'].items()]
    about = f'{result["model"]}, batch {result["batch"]}, {result["dtype"]}, {result["rounds"]} rounds'
    text = f'{about}; matrix rate, GFLOP/s: {", ".join(rates)}\n\n{measure.markdown(table)}'
    for name, row in result['variants'].items():
        if 'kinds' in row:
            total = sum(row['kinds'].values())
            shares = [f'{kind} {100 * seconds / total:.0f} %' for kind, seconds in row['kinds'].items()]
            text += f'\n\nKernels of {name}, {1e3 * total:.1f} ms: {", ".join(shares)}.'
    return text


def write(report: dict, args: argparse.Namespace) -> None:
    """Write what is measured so far."""
    measure.write_report(report, '\n\n'.join([*map(describe, report['models']), LEGEND]), args.out)


def main(argv: list[str] | None = None) -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument('--models', nargs='+', choices=list(KNOWN), default=['vit-b_k9', 'vit-s', 'vit-b', 'vit-t'])
    parser.add_argument('--variants', nargs='+', choices=NAMES, default=DEFAULT, metavar='VARIANT')
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32', help='bf16: autocast (default: fp32)')
    parser.add_argument('--batch', type=int, help='images in a step (default: by model and device)')
    parser.add_argument('--rounds', type=int, default=7, help="0: only fill the compiler's cache (default: 7)")
    parser.add_argument('--kinds', action='store_true', help='profile a step: time of its kernels by kind')
    parser.add_argument('--steps', type=int, default=1, help='steps of a turn (default: 1)')
    args = parser.parse_args(argv)
    if args.device.type == 'cpu':
        keep_freed_memory()  # as in training; baselines gain as much
    report: dict = {'models': []}
    for name in args.models:
        benchmark(name, args, report)
        print(describe(report['models'][-1]), flush=True)
        gc.collect()
        torch.compiler.reset()
    failed = [name for r in report['models'] for name, row in r['variants'].items() if 'failed' in row]
    if failed:
        sys.exit(f'step.py: error: failed: {", ".join(failed)}')


if __name__ == '__main__':
    main()
