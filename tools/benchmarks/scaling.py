#!/usr/bin/env python
"""Measure how the time of a training step grows with tokens and with segments, against the closed form.

Predicted is every point of an axis from the middle one, as if all multiply-adds of randsac_mm.complexity cost alike.
Steps of all points see 9,216 tokens, so that the linear layers get equal work and what grows is attention, whose
products run at a lower rate (docs/scaling.md). The model has 2 + 1 layers.

Example:
    python tools/benchmarks/scaling.py --out docs/results/scaling_cpu
"""

import argparse
from pathlib import Path

import measure
import torch
from step import Variant, make_variant

from randsac_mm.engine.resources import keep_freed_memory

# Side of the token grid and number of square segments of every point.
AXES = {
    'tokens': {side**2: (side, 16) for side in (8, 12, 16, 24, 32)},
    'segments': {segments: (12, segments) for segments in (4, 9, 16, 36, 144)},
}


def make_point(side: int, segments: int, dims: int, tokens: int, device: torch.device) -> Variant:
    """Make a model whose steps see ``tokens`` tokens, in images of ``side`` x ``side`` tokens."""
    layers = dict(embed_dims=dims, num_heads=dims // 64 or 1, feedforward_channels=4 * dims)
    changes = {
        'backbone': dict(img_size=4 * side, arch=dict(num_layers=2, **layers)),
        'neck': dict(num_layers=1, encoder_dims=dims, encoder_layers=2, **layers),
        'head.embed_dims': dims,
        'data_preprocessor.serialization.partition.hierarchy': segments,
    }
    return make_variant('eager', 'tiny', max(1, tokens // side**2), device, torch.float32, **changes)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', type=torch.device, default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--dims', type=int, default=384, help='width of all layers (default: 384)')
    parser.add_argument('--tokens', type=int, default=9216, help='tokens in a step (default: 9216)')
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--out', type=Path, metavar='STEM', help='write STEM.json and STEM.md')
    args = parser.parse_args(argv)
    keep_freed_memory()  # as in training
    report: dict = {'environment': measure.environment(args.device)}
    text = []
    for axis, sizes in AXES.items():
        points = {value: make_point(*size, args.dims, args.tokens, args.device) for value, size in sizes.items()}
        seconds: dict[int, list[float]] = {value: [] for value in points}
        for order in measure.turns(list(points), args.rounds + 1):
            for value in order:
                seconds[value].append(measure.seconds_of(points[value].step, args.device))
        middle = list(points)[len(points) // 2]
        report[axis], table = {}, [[axis, 'GFLOP', 'ms', 'measured / predicted']]
        for value, point in points.items():
            times = seconds[value][1:]  # the first round is warm-up
            ratio = measure.median_ratio(times, seconds[middle][1:]) * points[middle].operations / point.operations
            row = {'operations': point.operations, 'step': measure.spread(times), 'ratio': ratio}
            report[axis][value] = row
            milliseconds = f'{1e3 * row["step"]["median"]:.1f}'
            table.append([str(value), f'{point.operations / 1e9:.1f}', milliseconds, f'{ratio:.2f}'])
        text.append(measure.markdown(table))
        print(text[-1], flush=True)
        measure.write_report(report, '\n\n'.join(text), args.out)


if __name__ == '__main__':
    main()
