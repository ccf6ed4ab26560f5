"""What all benchmarks share: clocks, spread, memory, host syncs, and a record of where figures come from."""

import contextlib
import datetime
import gc
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
STATUS, REFERENCES = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything that it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def now(device: torch.device) -> float:
    """Give the time in seconds, after everything given to the device is done."""
    synchronize(device)
    return time.perf_counter()


class Marks:
    """Note moments without stopping the device: by CUDA events, which it writes itself, or by the clock of the CPU.

    Args:
        device: Whose time is meant.

    Example:
        >>> marks = Marks(torch.device('cpu'))
        >>> marks.set(); marks.set()
        >>> len(marks.seconds())
        1
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list = []

    def set(self) -> None:
        """Note this moment."""
        if self.device.type == 'cuda':
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self.marks.append(event)
        else:
            self.marks.append(time.perf_counter())

    def seconds(self) -> list[float]:
        """Give the seconds between each moment and the next; waits for the device."""
        synchronize(self.device)
        pairs = list(zip(self.marks[:-1], self.marks[1:], strict=True))
        if self.device.type == 'cuda':
            return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]
        return [end - begin for begin, end in pairs]


def spread(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Give median and quartiles.

    Args:
        values: At least one value.

    Example:
        >>> spread([3.0, 1.0, 2.0, 4.0, 5.0])
        {'median': 3.0, 'quartiles': [1.5, 4.5]}
    """
    quartiles = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return {'median': statistics.median(values), 'quartiles': [quartiles[0], quartiles[2]]}


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Give the median over rounds of a ratio: values of one round saw the same noise of the machine.

    Example:
        >>> median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0])
        2.0
    """
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def resident_bytes() -> tuple[int, int]:
    """Give the memory of this process in bytes, now and at its highest, as Linux counts it."""
    # Not getrusage, whose peak may be that of the process which started this one.
    status = dict(line.split(':', 1) for line in STATUS.read_text().splitlines())
    now_kib, peak_kib = (int(status[key].split()[0]) for key in ('VmRSS', 'VmHWM'))
    return now_kib * 1024, peak_kib * 1024


def reset_peak(device: torch.device) -> None:
    """Start a new peak of memory, as far as the system allows."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):  # some containers forbid it; the peak then counts what was before, too
        REFERENCES.write_text('5')


def peak_bytes(device: torch.device) -> tuple[int, int]:
    """Give the bytes in use now and at their highest: of a CUDA device's tensors, or of this process."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated(device), torch.cuda.max_memory_allocated(device)
    return resident_bytes()


def saved_bytes(run: Callable[[], object]) -> int:
    """Count the bytes that a forward pass keeps for its backward pass, every storage once, parameters excluded.

    Args:
        run: The forward pass, eager.

    Returns:
        Bytes; the same on every device.
    """
    storages: dict[int, int] = {}
    kept = []  # a storage that is freed early could give its address to another one

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            kept.append(storage)
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    del result
    return sum(storages.values())


def rounds_until(at_least: int, at_most: int, deadline: float | None) -> Iterator[int]:
    """Count rounds: all of them, or fewer if time runs out, but never fewer than ``at_least``.

    Args:
        at_least: Rounds that are done whatever they cost.
        at_most: Rounds that are done if time allows.
        deadline: ``time.perf_counter()`` after which no further round begins; None: no such moment.
    """
    for i in range(at_most):
        if i >= at_least and deadline is not None and time.perf_counter() > deadline:
            return
        yield i


def environment(device: torch.device) -> dict[str, object]:
    """Describe where figures come from: command, commit, hardware, software, date."""
    where: dict[str, object] = {
        'command': ' '.join(['python', os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
        'commit': commit(),
        'date': datetime.datetime.now(datetime.timezone.utc).strftime('%Y-%m-%d %H:%M UTC'),
        'device': device.type,
        'hardware': torch.cuda.get_device_name(device) if device.type == 'cuda' else processor(),
        'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        'threads': torch.get_num_threads(),
        'python': platform.python_version(),
        'torch': torch.__version__,
    }
    if device.type == 'cuda':
        where['cuda'] = torch.version.cuda
        where['float32_products'] = torch.get_float32_matmul_precision()
    return where


def commit() -> str:
    """Name the commit of this clone, with ``+changes`` if files differ; ``RANDSAC_COMMIT`` speaks where git cannot."""
    if 'RANDSAC_COMMIT' in os.environ:
        return os.environ['RANDSAC_COMMIT']
    try:
        git = ['git', '-C', str(ROOT)]
        name = subprocess.run([*git, 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, 'status', '--porcelain'], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return 'unknown'
    return name.stdout.strip() + ('+changes' if changes.stdout.strip() else '')


def processor() -> str:
    """Name the processor of this machine."""
    with contextlib.suppress(OSError):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine()
