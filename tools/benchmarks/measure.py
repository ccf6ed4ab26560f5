"""What all benchmarks share: clock, statistics, options, reports."""

import argparse
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import randsac_mm  # noqa: F401  (before torch is loaded)

# isort: split
import numpy as np
import torch

from randsac_mm.engine.origin import describe_origin
from randsac_mm.files import atomic_write, write_json

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def seconds_of(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Return the mean seconds of ``times`` calls of ``run``; waits for a CUDA device at both ends."""
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return (time.perf_counter() - start) / times


def timed_rounds(
    runs: dict[str, Callable], rounds: int, device: torch.device, times: int
) -> Iterator[dict[str, float]]:
    """Yield the seconds of a call of each run, round by round; each round begins with the next run."""
    order = deque(runs)
    for _ in range(rounds):
        yield {name: seconds_of(runs[name], device, times) for name in order}
        order.rotate(-1)


def spread(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Return median and quartiles of at least one value."""
    low, median, high = np.percentile(values, [25, 50, 75]).tolist()
    return {'median': median, 'quartiles': [low, high]}


def make_parser(doc: str) -> argparse.ArgumentParser:
    """Make a parser with the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    parser.add_argument('--device', type=torch.device, default=device, help='default: the GPU, if there is one')
    parser.add_argument('--out', type=Path, metavar='STEM', help='write STEM.json and STEM.md')
    return parser


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is its head, all columns but the first are aligned to the right."""
    rule = ['---', *['--:'] * (len(rows[0]) - 1)]
    return '\n'.join(f'| {" | ".join(row)} |' for row in [rows[0], rule, *rows[1:]])


def write_report(report: dict, text: str, stem: Path | None) -> None:
    """Write ``STEM.json`` and ``STEM.md`` with the origin of the figures; without a stem write nothing."""
    if stem is None:
        return
    origin = {**describe_origin(), 'threads': torch.get_num_threads()}
    about = ', '.join(f'{key} {origin[key]}' for key in ('command', 'commit', 'hardware', 'gpus', 'threads', 'torch'))
    write_json(stem.with_name(f'{stem.name}.json'), {'origin': origin, **report})
    with atomic_write(stem.with_name(f'{stem.name}.md')) as path:
        path.write_text(f'{about}\n\n{text}\n')
