#!/usr/bin/env python
"""Time a pre-training step of RandSAC beside PyTorch's own layers and mmpretrain's MAE.

A step: draw the serialization, forward, loss, backward, AdamW, on images that lie on the device. All variants of a
model run in one process, in turns; warm-up is not counted. Before anything is timed, all variants of RandSAC must
compute the same loss from the same weights. Others are compared to the first variant.

Variants:
    eager, compiled, graphs    ours; `:plain`, `:sdpa` or `:triton` behind it sets the attention, `+torch` PyTorch's
                               float32 product on any CPU (default: the rules of the package)
    plain, plain-compiled      PyTorch's transformer layers: all tokens, additive masks for each image
    mae, mae-compiled          mmpretrain's MAE, same encoder, 224 px

Example:
    python tools/benchmarks/step.py --models vit-s --dtype bf16 --variants compiled compiled:sdpa eager --memory
"""

import argparse
import gc
import importlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import measure
import torch
from matrix_rate import linear_shapes, matrix_rates
from plain_model import PlainRandSAC
from step_models import KNOWN, build_mae, build_model
from torch import Tensor

from randsac_mm.complexity import complexity
from randsac_mm.engine import compile_model
from randsac_mm.engine.resources import keep_freed_memory

OURS = ('eager', 'compiled', 'graphs')
NAMES = [
    *(a + b + c for a, b, c in product(OURS, ('', ':plain', ':sdpa', ':triton'), ('', '+torch'))),
    *('plain', 'plain-compiled', 'mae', 'mae-compiled'),
]
DEFAULT = ['compiled', 'eager', 'eager+torch', 'plain', 'mae-compiled', 'mae']
COLUMNS = ('variant', 'images/s', 'step', 'quartiles', '/ first', 'of rate', 'memory', 'ready')
LEGEND = """\
step: ms, median and quartiles. / first: time over that of the first variant, median over rounds. of rate: operations
that the result needs (closed form, backward twice forward, masked pairs counted) per second, over the matrix rate of
the same round on the model's linear layers, of each product the fastest kernel. memory: GB that training adds, weights
and optimiser included. ready: seconds until a loss and two steps are done, compiling included."""


class Variant(NamedTuple):
    """One way to take a training step, with weights and an optimiser of its own."""

    loss: Callable[[], Tensor]  # with a fresh serialization
    step: Callable[[], None]
    operations: int  # that a step needs, all images together


def make_variant(name: str, model_name: str, batch: int, device: torch.device, dtype: torch.dtype) -> Variant:
    """Make a variant; all variants of RandSAC start from the same weights and see the same images."""
    base, _, attention = name.removesuffix('+torch').partition(':')
    kind, _, compiled = base.partition('-')
    torch.manual_seed(0)
    model = build_model(model_name, attention=attention or 'auto').to(device)
    size, operations = model.backbone.img_size, 6 * batch * complexity(model)['total'].executed
    draw, compute = model.data_preprocessor.draw, model.loss
    if kind == 'plain':
        model = compute = PlainRandSAC(model).to(device)
    elif kind == 'mae':
        model = build_mae(model_name).to(device)
        size, draw, compute = model.backbone.img_size, lambda images: {'data_samples': None}, model.loss
        image = torch.zeros(1, 3, *size, device=device)
        operations = 6 * batch * measure.multiply_adds(lambda: model.loss(image, None))
    elif kind != 'eager':
        compile_model(model, mode='reduce-overhead' if kind == 'graphs' else None)
    if compiled:
        compute = torch.compile(compute)
    images = torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(0)).to(device)
    learned = [p for p in model.parameters() if p.requires_grad]
    # Baselines get PyTorch's default AdamW for the device, ours the fused one that its configs choose.
    optimizer = torch.optim.AdamW(learned, lr=1e-5, weight_decay=0.05, fused=True if kind in OURS else None)

    def loss() -> Tensor:
        drawn = draw(images)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return compute(images, **drawn)['loss']

    def step() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    if name.endswith('+torch'):
        kernels = importlib.import_module('randsac_mm.kernels.linear')
        loss, step = (mock.patch.object(kernels, 'ONEDNN', False)(function) for function in (loss, step))
    return Variant(loss, step, operations)


def prepare(name: str, model_name: str, batch: int, device: torch.device, dtype: torch.dtype) -> tuple[Variant, dict]:
    """Make a variant and take two steps.

    The second value holds its ``loss`` before training, ``ready_seconds``, and ``memory_bytes``, which training adds at
    most; on a CPU that means something only in a process of its own.
    """
    before, start = measure.memory_in_use(device), time.perf_counter()
    variant = make_variant(name, model_name, batch, device, dtype)
    torch.manual_seed(0)
    loss = variant.loss().item()
    variant.step()  # whatever is compiled is compiled now
    measure.reset_peak(device)
    variant.step()
    memory = measure.peak_memory(device) - before
    return variant, {'loss': loss, 'memory_bytes': memory, 'ready_seconds': time.perf_counter() - start}


def _check_loss(name: str, loss: float, rows: dict[str, dict], dtype: torch.dtype) -> None:
    """Check that a variant of RandSAC computes the function of the first one."""
    first = next((r['loss'] for n, r in rows.items() if not n.startswith('mae') and 'loss' in r), loss)
    if not name.startswith('mae') and not abs(loss - first) <= (1e-5 if dtype == torch.float32 else 5e-3) * first:
        raise ArithmeticError(f'its loss is {loss:.6f}, that of the first variant {first:.6f}')


def benchmark(model_name: str, args: argparse.Namespace, save: Callable[[dict], None]) -> dict:
    """Time the variants of one model; ``save`` gets the result after each of them and after each round."""
    device, dtype, on_cpu = args.device, measure.DTYPES[args.dtype], args.device.type == 'cpu'
    batch = args.batch or KNOWN[model_name].batch[not on_cpu]
    rows: dict[str, dict] = {}
    result = {'model': model_name, 'batch': batch, 'dtype': args.dtype, 'rounds': 0, 'variants': rows}
    variants: dict[str, Variant] = {}
    for name in args.variants:
        try:
            variant, row = prepare(name, model_name, batch, device, dtype)
            _check_loss(name, row['loss'], rows, dtype)
            if args.rounds:
                variants[name] = variant
        except Exception as error:  # the figures of the others are worth having
            traceback.print_exc()
            row = {'failed': f'{type(error).__name__}: {error}'.splitlines()[0]}
        if on_cpu:
            row.pop('memory_bytes', None)
        rows[name] = row
        print(f'{model_name} {name}: {row}', flush=True)
        save(result)
    model = build_model(model_name).to(device)
    shapes = linear_shapes(model, lambda: model.loss(torch.zeros(batch, 3, *model.backbone.img_size, device=device)))
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    rates: list[dict[str, float]] = []
    for order in measure.turns(list(variants), args.rounds):
        for name in order:
            seconds[name].append(measure.seconds_of(variants[name].step, device, args.steps))
        rates.append(matrix_rates(shapes, device, dtype))
        result['rounds'] = len(rates)
        result['matrix_rates'] = {kernel: measure.spread([rate[kernel] for rate in rates]) for kernel in rates[0]}
        for name, times in seconds.items():
            rows[name]['step'] = measure.spread(times)
            rows[name]['images_per_second'] = batch / rows[name]['step']['median']
            rows[name]['ratio'] = measure.median_ratio(times, next(iter(seconds.values())))
            needed = [variants[name].operations / rate['best'] for rate in rates]
            rows[name]['utilisation'] = measure.median_ratio(needed, times)
        save(result)
    for name, row in rows.items() if args.memory and on_cpu else ():
        options = ['--models', model_name, '--batch', str(batch), '--dtype', args.dtype, '--device', 'cpu']
        row.update(measure.run_worker(__file__, *options, '--memory-of', name))
        save(result)
    return result


def describe(result: dict) -> str:
    """Return the figures of one model as Markdown."""
    table = [COLUMNS]
    for name, row in result['variants'].items():
        if 'step' not in row:
            table.append([f'{name}: {row.get("failed", "not timed")}', *[''] * (len(COLUMNS) - 1)])
            continue
        low, high = (f'{1e3 * value:.1f}' for value in row['step']['quartiles'])
        step, use = f'{1e3 * row["step"]["median"]:.1f}', f'{100 * row["utilisation"]:.1f} %'
        memory = f'{row["memory_bytes"] / 1e9:.2f}' if 'memory_bytes' in row else ''
        cells = [step, f'{low} .. {high}', f'{row["ratio"]:.2f}', use, memory, f'{row["ready_seconds"]:.1f}']
        table.append([name, f'{row["images_per_second"]:.1f}', *cells])
    rates = [f'{name} {rate["median"] / 1e9:,.0f}' for name, rate in result.get('matrix_rates', {}).items()]
    about = f'{result["model"]}, batch {result["batch"]}, {result["dtype"]}, {result["rounds"]} rounds'
    return f'{about}; matrix rate, GFLOP/s: {", ".join(rates)}\n\n{measure.markdown(table)}'


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(KNOWN), default=['vit-b_k9', 'vit-s', 'vit-b', 'vit-t'])
    parser.add_argument('--variants', nargs='+', choices=NAMES, default=DEFAULT, metavar='VARIANT')
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=list(measure.DTYPES), default='fp32', help='bf16: autocast (default: fp32)')
    parser.add_argument('--batch', type=measure.positive, help='images in a step (default: by model and device)')
    parser.add_argument('--rounds', type=int, default=7, help="0: only fill the compiler's cache (default: 7)")
    parser.add_argument('--steps', type=measure.positive, default=1, help='steps of a turn (default: 1)')
    parser.add_argument('--memory', action='store_true', help='on a CPU: peak memory, each variant in its own process')
    parser.add_argument('--out', type=Path, metavar='STEM', help='write STEM.json and STEM.md')
    parser.add_argument('--memory-of', metavar='VARIANT', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device.type == 'cpu':
        keep_freed_memory()  # as in training; baselines gain as much
    if args.memory_of:
        warnings.filterwarnings('ignore')
        _, row = prepare(args.memory_of, args.models[0], args.batch, args.device, measure.DTYPES[args.dtype])
        print(json.dumps({'memory_bytes': row['memory_bytes']}))
        return
    report: dict = {'environment': measure.environment(args.device), 'models': []}

    def save(result: dict) -> None:
        models = [*report['models'], result]
        text = [', '.join(map(str, report['environment'].values())), *map(describe, models), LEGEND]
        measure.write_report({**report, 'models': models}, '\n\n'.join(text), args.out)

    for name in args.models:
        report['models'].append(benchmark(name, args, save))
        print(describe(report['models'][-1]), flush=True)
        gc.collect()
        torch.compiler.reset()
    failed = [name for r in report['models'] for name, row in r['variants'].items() if 'failed' in row]
    if failed:
        sys.exit(f'step.py: error: failed: {", ".join(failed)}')


if __name__ == '__main__':
    main()
