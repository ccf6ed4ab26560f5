#!/usr/bin/env python
"""Measure how the cost of a training step grows with tokens, segments, depth and batch, against the closed form.

Predicted are all points of an axis from the middle one: cost(point) / cost(middle) x seconds(middle). Two ways:

    operations    all multiply-adds cost alike
    parts         operations of linear layers at their own rate; attention, in proportion to tokens and to their
                  square; the bytes of norms, sums, GELU and AdamW at the rate of such operations. These constants are
                  measured in the same run, each part alone, attention at the ends of the axis of tokens.

On the axis of tokens, images times tokens is constant, so that every point feeds the linear layers alike. The command
fails if a measured time there is not within 15 % of the prediction by parts. Memory: bytes that a forward pass
keeps for the backward pass, counted tensor by tensor; predicted in proportion to images x tokens x layers, because
nothing of the size tokens x tokens may be kept.

Examples:
    python tools/benchmarks/scaling.py --out docs/results --name scaling_cpu
    python tools/benchmarks/scaling.py --axes tokens --variant compiled --dtype bf16
    python tools/benchmarks/scaling.py --axes processes                       1 and 2 processes, one core each
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from measure import environment, median_ratio, rounds_until, saved_bytes, spread
from rates import backends
from scaling_model import (
    AXES,
    Point,
    attention_costs,
    attention_seconds,
    attention_work,
    axis_points,
    build_point,
    linear_rate,
    traffic,
    traffic_rate,
    work,
)
from scaling_processes import measure_processes, processes_table
from step_report import markdown, write_json
from step_variants import Variant, kernels, make_variant, parse

from randsac_mm.engine.resources import keep_freed_memory
from randsac_mm.models import RandSAC

DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}
RATES = ('linear', 'attention', 'traffic')
TOLERANCE = 0.15
AT_LEAST = 5


class PartRates:
    """Measure the parts of a step alone: linear layers, attention over few and over many tokens, norms, sums and GELU.

    Args:
        args: The command line.
        variant: Whose back-ends are meant.
    """

    def __init__(self, args: argparse.Namespace, variant: Variant) -> None:
        self.device, self.dtype, self.variant = args.device, DTYPES[args.dtype], variant
        ends = axis_points('tokens', args.scale, 1, 1)
        self.ends = [(build_point(point, args.dims, args.heads), point.batch) for point in (ends[0], ends[-1])]
        self.rounds: list[tuple[float, float, float, float]] = []

    def measure(self) -> None:
        """Measure every part once."""
        with kernels(self.variant.attention, self.variant.linear):
            short, long = (attention_seconds(*end, self.device, self.dtype) for end in self.ends)
            dense = linear_rate(*self.ends[0], self.device, self.dtype)
        self.rounds.append((dense, short, long, traffic_rate(*self.ends[0], self.device)))

    def constants(self) -> dict[str, float]:
        """Give what :func:`predict` needs, medians over rounds."""
        dense, short, long, moved = (statistics.median(column) for column in zip(*self.rounds, strict=True))
        # These models have three attentions, one of the encoder and two of the decoder; one was timed.
        works = [
            (t, *(count // 3 for count in attention_work(*end)))
            for t, end in zip((short, long), self.ends, strict=True)
        ]
        number, operation = attention_costs(*works)
        return {
            'linear_rate': dense,
            'traffic_rate': moved,
            'attention_number_seconds': number,
            'attention_rate': 1 / operation,
        }


def predict(model: RandSAC, batch: int, constants: dict[str, float]) -> float:
    """Predict the seconds of a step from its parts."""
    numbers, operations = attention_work(model, batch)
    return (
        6 * work(model, batch)[0] / constants['linear_rate']
        + numbers * constants['attention_number_seconds']
        + operations / constants['attention_rate']
        + traffic(model, batch) / constants['traffic_rate']
    )


def measure_axis(axis: str, args: argparse.Namespace) -> dict:
    """Time all points of an axis in turns and compare them with their predictions."""
    dtype, device = DTYPES[args.dtype], args.device
    points = axis_points(axis, args.scale, *args.layers)
    deadline = time.perf_counter() + args.budget if args.budget else None
    variants: list[Variant] = []
    works, kept = [], []
    for point in points:
        model = build_point(point, args.dims, args.heads).to(device)
        variants.append(make_variant(args.variant, model, 'tiny', point.batch, fused_baseline=True))
        works.append(work(model, point.batch))
        # Compiled code keeps what it likes; what eager code keeps is what the layers need.
        eager = make_variant('eager', model, 'tiny', point.batch, fused_baseline=True)
        kept.append(saved_bytes(lambda v=eager: _loss(v, dtype)))
        for _ in range(2):
            variants[-1].step(dtype)
    rates = PartRates(args, variants[0])
    for i in rounds_until(AT_LEAST, args.rounds, deadline):
        for k in range(len(points)):
            variants[(i + k) % len(points)].step(dtype, record=True, steps=1 if device.type == 'cpu' else 5)
        rates.measure()
    constants = rates.constants()
    predicted = [predict(variant.model, len(variant.images), constants) for variant in variants]
    seconds = [variant.seconds['step'] for variant in variants]
    # Tokens that enter, not those of the image: a segment is left out.
    size = [p.batch * (p.side**2 - p.side**2 // p.squares) * (p.encoder + p.decoder) for p in points]
    rows = compare(points, works, predicted, seconds, kept, size)
    return {'constants': constants, 'points': rows}


def compare(
    points: list[Point],
    works: list[tuple[int, int]],
    predicted: list[float],
    seconds: list[list[float]],
    kept: list[int],
    size: list[int],
) -> list[dict]:
    """Compare every point with its predictions from the middle one.

    Args:
        points: The points.
        works: Multiply-adds of linear layers and of attention.
        predicted: Seconds by parts.
        seconds: Measured seconds of every round.
        kept: Bytes kept for the backward pass.
        size: What ``kept`` should be proportional to.

    Returns:
        One row for each point.
    """
    rows, middle = [], len(points) // 2
    for i, point in enumerate(points):
        measured = median_ratio(seconds[i], seconds[middle])
        rows.append(
            {
                **point._asdict(),
                'step': spread(seconds[i]),
                'multiply_adds_linear': works[i][0],
                'multiply_adds_attention': works[i][1],
                'predicted_seconds': predicted[i],
                'against_operations': measured * sum(works[middle]) / sum(works[i]),
                'against_parts': measured * predicted[middle] / predicted[i],
                'kept_bytes': kept[i],
                'kept_against_proportional': kept[i] / kept[middle] * size[middle] / size[i],
            }
        )
    return rows


def table(rows: list[dict]) -> str:
    """Write an axis for people."""
    head = ['value', 'batch', 'ms', 'quartiles', 'GFLOP', '/ operations', '/ parts', 'kept, MB', '/ proportional']
    cells = [head]
    for row in rows:
        low, high = (f'{1e3 * value:.1f}' for value in row['step']['quartiles'])
        flops = 6e-9 * (row['multiply_adds_linear'] + row['multiply_adds_attention'])
        cells.append(
            [
                str(row['value']),
                str(row['batch']),
                f'{1e3 * row["step"]["median"]:.1f}',
                f'{low} .. {high}',
                f'{flops:.1f}',
                f'{row["against_operations"]:.2f}',
                f'{row["against_parts"]:.2f}',
                f'{row["kept_bytes"] / 1e6:.1f}',
                f'{row["kept_against_proportional"]:.2f}',
            ]
        )
    return markdown(cells)


def verdict(rows: list[dict]) -> tuple[bool, str]:
    """Tell whether the cost of tokens is as predicted, and say so."""
    worst = max((row['against_parts'] for row in rows), key=lambda ratio: abs(ratio - 1))
    good = abs(worst - 1) <= TOLERANCE
    limit = f'{1 - TOLERANCE:.2f} .. {1 + TOLERANCE:.2f}'
    return good, f'{"PASS" if good else "FAIL"}: tokens, measured / predicted furthest from 1: {worst:.2f} ({limit})'


def _loss(variant: Variant, dtype: torch.dtype) -> torch.Tensor:
    with torch.autocast(variant.images.device.type, dtype, enabled=dtype != torch.float32):
        return variant.loss(variant.images, variant.draw(variant.images))


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--axes', nargs='+', choices=[*AXES, 'processes'], default=list(AXES))
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dtype', choices=list(DTYPES), default='fp32', help='bf16: autocast (default: fp32)')
    parser.add_argument('--variant', help='one of ours, see step.py (default: eager, with the fastest matrix product)')
    parser.add_argument('--dims', type=int, default=384, help='width (default: 384)')
    parser.add_argument('--heads', type=int, default=6, help='heads (default: 6)')
    parser.add_argument('--layers', type=int, nargs=2, metavar=('ENC', 'DEC'), help='default: 2 1, on CUDA 12 4')
    parser.add_argument('--scale', type=int, help='multiplies all batches (default: 4, on CUDA 32)')
    parser.add_argument('--rounds', type=int, default=7, help=f'at least {AT_LEAST} (default: 7)')
    parser.add_argument('--budget', type=float, help='seconds for each axis; then only the least number of rounds')
    parser.add_argument('--out', type=Path, metavar='FOLDER', help='write NAME.json and NAME.md there')
    parser.add_argument('--name', default='scaling', help='of the files in --out (default: scaling)')
    args = parser.parse_args()
    cuda = args.device.type == 'cuda'
    if args.rounds < AT_LEAST:
        parser.error(f'--rounds {args.rounds}: a median needs at least {AT_LEAST}')
    if cuda and not torch.cuda.is_available():
        parser.error('--device cuda: this machine has no CUDA device')
    args.layers = args.layers or ([12, 4] if cuda else [2, 1])
    args.scale = args.scale or (32 if cuda else 4)
    if args.scale % 4:
        parser.error(f'--scale {args.scale}: must be a multiple of 4, or 1,024 tokens do not fit a whole batch')
    linear = backends(args.device, DTYPES[args.dtype])[-1]
    args.variant = args.variant or ('eager' if linear == 'torch' else f'eager+{linear}')
    try:
        parse(args.variant)
    except ValueError as error:
        parser.error(str(error))
    return args


def main() -> None:
    """Read the command line, measure, print, write; fail if tokens cost more than predicted."""
    args = parse_args()
    if args.device.type == 'cpu':
        keep_freed_memory()  # as tools/train.py does: memory is not asked for anew in every step
    settings = {
        key: str(value) if isinstance(value, (Path, torch.device)) else value for key, value in vars(args).items()
    }
    report = {'environment': environment(args.device), 'settings': settings, 'axes': {}}
    print(', '.join(f'{key} {value}' for key, value in report['environment'].items()), flush=True)
    good, text = True, []
    for axis in args.axes:
        if axis == 'processes':
            rows = measure_processes(args.rounds)
            text += [processes_table(rows), '']
        else:
            rows = measure_axis(axis, args)
            rates = ', '.join(f'{name} {rows["constants"][f"{name}_rate"] / 1e9:,.0f}' for name in RATES)
            text += [f'{axis}; rates, G/s: {rates}', '', table(rows['points']), '']
        report['axes'][axis] = rows
        print('\n'.join(text[-4:]), flush=True)
        if axis == 'tokens':
            good, line = verdict(rows['points'])
            report['verdict'] = line
            text += [line, '']
            print(line, flush=True)
        if args.out:
            write_json(args.out, args.name, report)
            (args.out / f'{args.name}.md').write_text('\n'.join(text))
    sys.exit(not good)


if __name__ == '__main__':
    main()
