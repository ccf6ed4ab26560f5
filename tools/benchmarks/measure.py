"""What all benchmarks share: clock, memory, statistics, where figures come from, worker processes, reports."""

import argparse
import contextlib
import datetime
import gc
import json
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
DTYPES = {'fp32': torch.float32, 'bf16': torch.bfloat16}


def seconds_of(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Return the seconds of one call of ``run``, the mean of ``times`` calls; waits for a CUDA device at both ends."""
    wait = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return (time.perf_counter() - start) / times


def turns(names: Sequence[str], rounds: int) -> list[list[str]]:
    """Return the order of every round: all names, each round beginning with the next one."""
    return [[*names[i % len(names) :], *names[: i % len(names)]] for i in range(rounds if names else 0)]


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


def memory_in_use(device: torch.device) -> int:
    """Return the bytes of a CUDA device's tensors, or of this process (Linux)."""
    return torch.cuda.memory_allocated(device) if device.type == 'cuda' else _resident('VmRSS')


def peak_memory(device: torch.device) -> int:
    """Return the highest :func:`memory_in_use` since :func:`reset_peak`."""
    # Not getrusage, whose peak may be that of the parent process.
    return torch.cuda.max_memory_allocated(device) if device.type == 'cuda' else _resident('VmHWM')


def reset_peak(device: torch.device) -> None:
    """Start a new peak of memory."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # some containers forbid it; the peak then includes what was before
        Path('/proc/self/clear_refs').write_text('5')


def _resident(key: str) -> int:
    status = dict(line.split(':', 1) for line in Path('/proc/self/status').read_text().splitlines())
    return int(status[key].split()[0]) * 1024


def positive(text: str) -> int:
    """Read a whole number from 1 on, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} must be a whole number, at least 1')
    return int(text)


def run_worker(script: str, *options: str) -> dict:
    """Run a script in a process of its own and return the JSON of its last line, or ``{'failed': reason}``."""
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    killed = 'killed, probably out of memory' if done.returncode == -9 else f'exit status {done.returncode}'
    return {'failed': (done.stderr.strip().splitlines() or [killed])[-1]}


def environment(device: torch.device) -> dict[str, object]:
    """Return where figures come from: command, commit, date, hardware, threads, version of torch."""
    from randsac_mm.engine.origin import find_commit, processor_name  # not at the top: older clones lack it

    return {
        'command': shlex.join(['python', *sys.argv]),
        'commit': find_commit(),
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'hardware': torch.cuda.get_device_name(device) if device.type == 'cuda' else processor_name(),
        'threads': torch.get_num_threads(),
        'torch': torch.__version__,
    }


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is its head, all columns but the first are aligned to the right."""
    rule = ['---', *['--:'] * (len(rows[0]) - 1)]
    return '\n'.join(f'| {" | ".join(row)} |' for row in [rows[0], rule, *rows[1:]])


def write_report(report: dict, text: str, stem: Path | None) -> None:
    """Write ``STEM.json`` and ``STEM.md``, each complete or not at all; without a stem write nothing."""
    from randsac_mm.files import atomic_write  # not at the top: older clones lack it

    if stem is not None:
        for suffix, content in (('.json', json.dumps(report, indent=2)), ('.md', text)):
            with atomic_write(stem.with_name(stem.name + suffix)) as path:
                path.write_text(content + '\n')
