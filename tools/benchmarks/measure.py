"""What all benchmarks share: clock, memory, statistics, options, reports."""

import argparse
import contextlib
import gc
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from randsac_mm.engine.origin import describe_origin
from randsac_mm.files import atomic_write

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
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, times: int
) -> Iterator[dict[str, float]]:
    """Yield the seconds of a call of each run, round by round; each round begins with the next run."""
    order = deque(runs)
    for _ in range(rounds):
        yield {name: seconds_of(runs[name], device, times) for name in order}
        order.rotate(-1)


def spread(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Return median and quartiles of at least one value."""
    low, _, high = statistics.quantiles(values, n=4, method='inclusive') if len(values) > 1 else list(values) * 3
    return {'median': statistics.median(values), 'quartiles': [low, high]}


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median over rounds of a ratio: both values of a round saw the same noise of the machine."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def multiply_adds(run: Callable[[], object]) -> int:
    """Count the multiply-adds of matrix products and convolutions in ``run``, attention included."""
    # Attention by matrix products: the counter does not know every fused kernel.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2


def memory(device: torch.device, peak: bool = False) -> int:
    """Return the bytes of a CUDA device's tensors, or of this process (Linux): now, or at most since `reset_peak`."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)
    # Not getrusage, whose peak may be that of the parent process.
    status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(status['VmHWM' if peak else 'VmRSS'].split()[0]) * 1024


def reset_peak(device: torch.device) -> None:
    """Start a new peak of memory."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # some containers forbid it; the peak then includes what was before
        Path('/proc/self/clear_refs').write_text('5')


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
    contents = {'.json': json.dumps({'origin': origin, **report}, indent=2), '.md': f'{about}\n\n{text}'}
    for suffix, content in contents.items():
        with atomic_write(stem.with_name(stem.name + suffix)) as path:
            path.write_text(content + '\n')
