#!/usr/bin/env python
"""Time pre-training: the step alone, the data path alone, and whole runs, beside what one would run otherwise.

All variants of a model run in one process, in turns, each round beginning with another one; warm-up is not counted.
Before anything is timed, all variants of RandSAC must compute the same loss from the same weights. A step is: draw the
serialization, forward, loss, backward, AdamW, zero gradients, on images that lie on the device.

Variants: plain, plain-compiled, plain-sorted, plain-sorted-compiled (PyTorch's own transformer layers), mae and
mae-compiled (mmpretrain's MAE), and ours: eager, compiled, graphs, each as BASE[:ATTENTION][+LINEAR], such as
compiled:sdpa+onednn.

Examples:
    python tools/benchmarks/step.py --models vit-b_k9 --out docs/results --name step_cpu
    python tools/benchmarks/step.py --models vit-s vit-b --segments square blob --variants plain eager compiled
    python tools/benchmarks/step.py --models vit-t --parts data run
"""

import argparse
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from measure import environment, median_ratio, peak_bytes, reset_peak, rounds_until, spread
from rates import RateMeter, linear_shapes, square_rate
from step_memory import measure_apart
from step_models import ENTRIES, KNOWN, SEGMENTS, build_model
from step_parts import data_path, whole_run
from step_report import document, heading, parts_table, plot, step_table, write_json
from step_variants import COMPILED, PHASES, Variant, default_variants, make_variant, other_losses, parse

from randsac_mm.complexity import complexity
from randsac_mm.engine.resources import keep_freed_memory

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
FAILED = 'failed'
PREFERRED = ('compiled+onednn', 'compiled', 'eager+onednn', 'eager')  # what others are compared to
AT_LEAST = 5  # rounds, whatever the budget


def warm_up(
    names: list[str], make: Callable[[str], Variant], dtype: torch.dtype, deadline: float | None
) -> tuple[dict[str, Variant], dict[str, float], dict[str, str]]:
    """Make the variants, verify their losses and do the first two steps of each.

    Args:
        names: Their names, the most important first.
        make: Makes a variant from its name.
        dtype: Type of the matrix products.
        deadline: ``time.perf_counter()`` from which on no further variant is begun; None: no such moment.

    Returns:
        Those that can be timed; the loss of each before any training; and why others cannot be timed.
    """
    variants: dict[str, Variant] = {}
    losses, left_out = {}, {}
    for name in names:
        if variants and deadline is not None and time.perf_counter() > deadline:
            left_out[name] = 'no time'
            continue
        begin = time.perf_counter()
        try:
            variant = make(name)
            torch.manual_seed(0)
            losses[name] = variant.check(dtype)
            for _ in range(2):
                variant.step(dtype)
        except Exception as error:  # whatever it is, the others' figures are worth having
            traceback.print_exc()
            left_out[name] = f'{FAILED}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'
            continue
        variants[name] = variant
        variant.first = time.perf_counter() - begin
        print(f'  {name}: loss {losses[name]:.6f}, ready after {variant.first:.1f} s', flush=True)
    for name, loss in other_losses(losses, dtype).items():
        variants.pop(name, None)
        left_out[name] = f'{FAILED}: its loss is {loss:.6f}, the first variant computes another'
    for name, reason in left_out.items():
        print(f'  {name}: {reason}', flush=True)
    return variants, losses, left_out


def compile_only(names: list[str], make: Callable[[str], Variant], dtype: torch.dtype) -> dict[str, dict]:
    """Fill torch's caches, one compiled variant after the other, so that no two take memory at once."""
    rows = {}
    for name in names:
        if parse(name).base in COMPILED:
            ready, _, left_out = warm_up([name], make, dtype, None)
            rows[name] = {'left_out': left_out.get(name) or f'ready after {ready[name].first:.1f} s'}
            del ready
            gc.collect()
    return rows


def run_rounds(variants: dict[str, Variant], meter: RateMeter, args: argparse.Namespace, deadline) -> list[dict]:
    """Let every variant and the matrix products have their turn in each round; give the rates of all rounds."""
    names, rates = list(variants), []
    inner = args.steps or (1 if args.device.type == 'cpu' else 5)
    for i in rounds_until(AT_LEAST, args.rounds, deadline):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            torch.manual_seed(i)
            variants[name].step(DTYPES[args.dtype], record=True, steps=inner)
        rates.append(meter.sweep())
    return rates


def summarise(variants: dict[str, Variant], rates: list[dict], ours: str | None) -> dict[str, dict]:
    """Turn recorded seconds into figures; see ``LEGEND`` of step_report.py."""
    best = [rate['best'] for rate in rates]
    summary = {}
    for name, variant in variants.items():
        seconds, batch = variant.seconds['step'], len(variant.images)
        useful, executed = (6 * products * batch for products in (variant.useful, variant.multiply_adds))
        summary[name] = {
            'images_per_second': batch / statistics.median(seconds),
            'step': spread(seconds),
            **{phase: statistics.median(variant.seconds[phase]) for phase in PHASES},
            # Seconds at the matrix rate of the same round, over seconds.
            'utilisation': median_ratio([useful / rate for rate in best], seconds),
            'utilisation_executed': median_ratio([executed / rate for rate in best], seconds),
            'ratio': median_ratio(seconds, variants[ours].seconds['step']) if ours else None,
            'multiply_adds_useful': variant.useful,
            'multiply_adds_executed': variant.multiply_adds,
            'optimizer': 'fused AdamW' if variant.optimizer.defaults['fused'] else 'AdamW, PyTorch default',
            'attention': variant.attention,
            'linear': variant.linear,
            'first_seconds': variant.first,
        }
    return summary


def memory_and_syncs(variants: dict[str, Variant], summary: dict, args: argparse.Namespace) -> None:
    """Add what takes a step of its own: peak memory and host syncs."""
    dtype = DTYPES[args.dtype]
    for name, variant in variants.items():
        if args.device.type == 'cuda':
            # Weights of the others lie on the same device, so they are subtracted.
            torch.cuda.synchronize()
            reset_peak(args.device)
            before, _ = peak_bytes(args.device)
            variant.step(dtype)
            _, peak = peak_bytes(args.device)
            summary[name]['memory_bytes'] = peak - before + variant.state_bytes()


def benchmark_step(model_name: str, segments: str, args: argparse.Namespace) -> dict:
    """Time the steps of one model."""
    dtype, cuda = DTYPES[args.dtype], args.device.type == 'cuda'
    batch = args.batch or KNOWN[model_name].batch[cuda]
    torch.manual_seed(0)
    model = build_model(model_name, segments).to(args.device)
    names = args.variants or default_variants(args.device, dtype)
    if segments == 'blob':  # plain layers sort only segments of equal size, and MAE knows no segments
        names = [name for name in names if not name.startswith(('plain-sorted', 'mae'))]
    deadline = time.perf_counter() + args.budget if args.budget else None
    about = {'model': model_name, 'segments': segments, 'batch': batch, 'dtype': args.dtype}

    def make(name: str) -> Variant:
        return make_variant(name, model, model_name, batch, args.fused_baseline)

    if args.compile_only:
        return {**about, 'variants': compile_only(names, make, dtype)}
    # Compiling may take two thirds of the time, rounds the rest.
    variants, losses, left_out = warm_up(names, make, dtype, deadline - args.budget / 3 if deadline else None)
    if not variants:
        raise RuntimeError(f'no variant can be timed: {left_out}')
    meter = RateMeter(linear_shapes(model, batch), args.device, dtype)
    rates = run_rounds(variants, meter, args, deadline)
    ours = next((name for name in (args.ours, *PREFERRED) if name in variants), None)
    summary = summarise(variants, rates, ours)
    memory_and_syncs(variants, summary, args)
    result = {
        **about,
        'rounds': len(rates),
        'ours': ours,
        'losses': losses,
        'multiply_adds': complexity(model)['total'].executed,
        'matrix_rates': {name: spread([rate[name] for rate in rates]) for name in rates[0]},
        'variants': {**summary, **{name: {'left_out': reason} for name, reason in left_out.items()}},
    }
    if cuda:
        result['square_8192_rate'] = square_rate(args.device, dtype)
    variants.clear()
    del meter
    gc.collect()
    torch.compiler.reset()
    if args.memory and not cuda:
        for name, row in summary.items():
            row.update(measure_apart(name, model_name, segments, batch, args.dtype, args.fused_baseline))
    return result


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=list(KNOWN), default=list(ENTRIES), metavar='NAME')
    parser.add_argument('--segments', nargs='+', choices=SEGMENTS, default=['square'])
    parser.add_argument('--parts', nargs='+', choices=['step', 'data', 'run'], default=['step'])
    parser.add_argument('--variants', nargs='+', metavar='VARIANT', help='default: what suits the device')
    parser.add_argument(
        '--ours', metavar='VARIANT', help=f'to which others are compared (default: the first of {PREFERRED} that runs)'
    )
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32', help='bf16: autocast (default: fp32)')
    parser.add_argument('--batch', type=int, help='images in a step (default: by model and device)')
    parser.add_argument('--rounds', type=int, default=11, help=f'at least {AT_LEAST} (default: 11)')
    parser.add_argument('--steps', type=int, help='steps of a turn (default: 1, on CUDA 5)')
    parser.add_argument('--budget', type=float, help='seconds for each model; then only the least number of rounds')
    parser.add_argument('--fused-baseline', action='store_true', help='give baselines the fused AdamW, too')
    parser.add_argument('--memory', action='store_true', help='on a CPU: peak memory, each variant in its own process')
    parser.add_argument('--compile-only', action='store_true', help="fill torch's caches, time nothing")
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='write NAME.json, NAME.md and NAME.png there')
    parser.add_argument('--name', default='step', help='of the files in --out (default: step)')
    args = parser.parse_args()
    if args.rounds < AT_LEAST:
        parser.error(f'--rounds {args.rounds}: a median needs at least {AT_LEAST}')
    for option in ('batch', 'steps', 'budget'):
        value = getattr(args, option)
        if value is not None and value <= 0:
            parser.error(f'--{option} {value}: must be positive')
    if args.device.type == 'cuda' and not torch.cuda.is_available():
        parser.error('--device cuda: this machine has no CUDA device')
    try:
        for name in [*(args.variants or []), *([args.ours] if args.ours else [])]:
            parse(name)
    except ValueError as error:
        parser.error(str(error))
    return args


def main() -> None:
    """Read the command line, time, print, write."""
    args = parse_args()
    if args.device.type == 'cpu':
        keep_freed_memory()  # as tools/train.py does; here the baselines gain as much
    report: dict = {'environment': environment(args.device), 'steps': [], 'parts': []}
    settings = {
        key: str(value) if isinstance(value, (Path, torch.device)) else value for key, value in vars(args).items()
    }
    report['settings'] = settings
    print(', '.join(f'{key} {value}' for key, value in report['environment'].items()), flush=True)

    def save() -> None:
        if args.out:
            write_json(args.out, args.name, report)
            (args.out / f'{args.name}.md').write_text(document(report))
            plot(report, args.out / f'{args.name}.png')

    for name in args.models:
        for segments in args.segments if 'step' in args.parts else []:
            print(f'{name}, {segments}', flush=True)
            report['steps'].append(benchmark_step(name, segments, args))
            print(heading(report['steps'][-1]), step_table(report['steps'][-1]), sep='\n', flush=True)
            save()
        for part, run in (('data', data_path), ('run', whole_run)):
            if part in args.parts:
                report['parts'].append(run(name, args))
                print(parts_table(report['parts'][-1:]), flush=True)
                save()
    rows = [(r, name, row) for r in report['steps'] for name, row in r['variants'].items()]
    failed = [
        f'{r["model"]} {name} {row["left_out"]}' for r, name, row in rows if row.get('left_out', '').startswith(FAILED)
    ]
    if failed:
        sys.exit('step.py: error: ' + '; '.join(failed))


if __name__ == '__main__':
    main()
