"""Choose among back-ends of one meaning by a short measurement, once per machine and problem.

Used for attention (:mod:`.attention_choice`) and for linear layers. The default stays unless another back-end is
clearly faster, so that two runs on one machine do not differ by the noise of a measurement.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor

from randsac_mm.version import __version__

from .choice_cache import cache_key, recall, remember

AUTO = 'auto'
MARGIN = 0.05  # part of the default's time that another back-end must save to be chosen
BUDGET = 1.0  # seconds for all rounds of a measurement, without warm-up
ROUNDS = (3, 15)  # at least, at most
SAMPLE = 0.003  # seconds that one sample lasts at least, by repetition
HOPELESS = 3.0  # times slower than the fastest at the first look: not looked at again


@dataclass(frozen=True)
class Choice:
    """Tell which back-end was chosen, and why.

    Attributes:
        kind: What for, such as ``'attention'``.
        name: The back-end.
        source: Who says so: ``'measured'``, ``'remembered'``, ``'asked for'`` or an environment variable's name.
        seconds: Median time of each back-end that was measured, in seconds.
        excluded: Back-ends that cannot be used or compute something else, and the reason.
    """

    kind: str
    name: str
    source: str
    seconds: dict[str, float] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)

    def report(self) -> str:
        """Say it in one line.

        Example:
            >>> Choice('attention', 'sdpa', 'measured', {'sdpa': 0.00125, 'plain': 0.002}).report()
            'attention: sdpa (measured; sdpa 1.250 ms, plain 2.000 ms)'
        """
        times = ', '.join(f'{name} {1e3 * value:.3f} ms' for name, value in self.seconds.items())
        reasons = [f'without {name}: {reason}' for name, reason in self.excluded.items()]
        return f'{self.kind}: {self.name} ({"; ".join(part for part in (self.source, times, *reasons) if part)})'


def describe_machine(device: torch.device) -> dict[str, object]:
    """List what makes one machine's measurement void on another: chip, threads and versions."""
    if device.type == 'cuda':
        chip = torch.cuda.get_device_name(device)
    else:
        chip = f'{_processor()} {torch.backends.cpu.get_cpu_capability()} x {torch.get_num_threads()}'
    try:
        triton = importlib.metadata.version('triton')
    except importlib.metadata.PackageNotFoundError:
        triton = None
    return {'device': chip, 'torch': torch.__version__, 'triton': triton, 'randsac_mm': __version__}


@functools.cache
def _processor() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as lines:
            return next(line.partition(':')[2].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def disagreement(outputs: Iterable[Tensor], expected: Iterable[Tensor], tolerance: float) -> str | None:
    """Compare a back-end's outputs with a reference.

    Args:
        outputs: What the back-end computes.
        expected: What it should compute, of any type.
        tolerance: Largest error allowed, as part of the largest number of each expected tensor.

    Returns:
        What is wrong; None if nothing is.

    Example:
        >>> disagreement([torch.tensor([1.0, 2.1])], [torch.tensor([1.0, 2.0])], tolerance=0.01)
        'its error is 5.0e-02, more than 1.0e-02'
    """
    for output, reference in zip(outputs, expected, strict=True):
        if not output.isfinite().all():
            return 'it gives numbers that are not finite'
        error = (output.to(reference) - reference).abs().max() / reference.abs().max().clamp_min(1e-30)
        if error > tolerance:
            return f'its error is {error:.1e}, more than {tolerance:.1e}'
    return None


def choose(
    kind: str,
    candidates: Mapping[str, Callable[[], object]],
    key: Mapping[str, object],
    *,
    default: str,
    requested: str = AUTO,
    on_request: Sequence[str] = (),
    check: Callable[[str], str | None] = lambda _: None,
    wait: Callable[[], None] = lambda: None,
    budget: float = BUDGET,
    cache: bool = True,
    clock: Callable[[], float] = time.perf_counter,
) -> Choice:
    """Choose a back-end: the one asked for, else the one remembered, else the fastest that computes the right thing.

    Args:
        kind: What for. The environment variable ``RANDSAC_MM_<KIND>`` overrides everything.
        candidates: For each back-end what is timed, forward and backward on the model's own shapes. It prepares itself
            at its first call, which is not timed. One that raises is excluded.
        key: What the result depends on, such as :func:`describe_machine`, types and shapes.
        default: The candidate that stays unless another one saves more than 5 % of its time.
        requested: A candidate, or ``'auto'``.
        on_request: Further back-ends that may be asked for, but are never chosen.
        check: Maps a candidate to what is wrong with its results, or None.
        wait: Waits until the device has finished.
        budget: Time of the measurement in seconds, apart from warm-up.
        cache: Whether to read and write what is remembered on disk.
        clock: Tells the time in seconds.

    Returns:
        The choice. Its report says why.

    Raises:
        ValueError: If the back-end asked for does not exist.
        RuntimeError: If every candidate is excluded.
    """
    variable = f'RANDSAC_MM_{kind.upper()}'
    for source, name in ((variable, os.environ.get(variable) or AUTO), ('asked for', requested)):
        if name == AUTO:
            continue
        if name not in (*candidates, *on_request):
            names = ', '.join(map(repr, (AUTO, *candidates, *on_request)))
            raise ValueError(f'{kind} back-end {name!r} ({source}) must be one of {names}')
        return Choice(kind, name, source)
    line = cache_key(kind, {**key, 'default': default, 'candidates': sorted(candidates)})
    entry = recall(line) if cache else None
    if entry and entry['name'] in candidates:
        return Choice(kind, entry['name'], 'remembered', entry['seconds'], entry['excluded'])
    choice = _measure(kind, candidates, default, check, wait, budget, clock)
    if cache:
        remember(
            line, {name: value for name, value in asdict(choice).items() if name in ('name', 'seconds', 'excluded')}
        )
    return choice


def _measure(
    kind: str,
    candidates: Mapping[str, Callable[[], object]],
    default: str,
    check: Callable[[str], str | None],
    wait: Callable[[], None],
    budget: float,
    clock: Callable[[], float],
) -> Choice:
    excluded: dict[str, str] = {}
    samples: dict[str, list[float]] = {}

    def sample(name: str, repetitions: int) -> float:
        begin = clock()
        for _ in range(repetitions):
            candidates[name]()
        wait()
        return (clock() - begin) / repetitions

    for name in candidates:
        try:
            reason = check(name)
            if reason is None:
                sample(name, 2)  # compilers, allocators and caches settle
                samples[name] = [min(sample(name, 1) for _ in range(3))]
        except Exception as error:  # whatever a compiler or driver may raise: the others still work
            reason = f'{type(error).__name__}: {error}'.partition('\n')[0]
        if reason is not None:
            excluded[name] = reason
    if not samples:
        raise RuntimeError(f'no {kind} back-end works here: {excluded}. Name one to use it all the same')
    first = {name: times[0] for name, times in samples.items()}
    fastest = min(first.values())
    racing = [name for name in samples if first[name] <= HOPELESS * fastest or name == default]
    if len(racing) > 1:
        repetitions = max(1, math.ceil(SAMPLE / max(fastest, 1e-6)))
        for name in racing:
            samples[name].clear()
        end = clock() + budget
        for i in range(ROUNDS[1]):
            if i >= ROUNDS[0] and clock() > end:
                break
            for name in racing[i % len(racing) :] + racing[: i % len(racing)]:
                samples[name].append(sample(name, repetitions))
    seconds = {name: statistics.median(times) for name, times in samples.items()}
    best = min(seconds, key=seconds.__getitem__)
    if default in seconds and seconds[best] >= (1 - MARGIN) * seconds[default]:
        best = default
    return Choice(kind, best, 'measured', seconds, excluded)


def choose_together(choose_here: Callable[[], Choice]) -> Choice:
    """Let the first process choose for all: different back-ends would wait for each other, and round differently.

    Args:
        choose_here: Makes the choice; called by rank 0 alone. Without a process group: by everyone.

    Returns:
        The choice of rank 0, everywhere.

    Raises:
        RuntimeError: Everywhere, if rank 0 cannot choose.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return choose_here()
    message: list[object] = [None]
    if distributed.get_rank() == 0:
        try:
            message = [asdict(choose_here())]
        except Exception as error:  # the others wait for an answer
            message = [f'{type(error).__name__}: {error}']
    distributed.broadcast_object_list(message, src=0)
    if isinstance(message[0], str):
        raise RuntimeError(f'rank 0 could not choose a back-end: {message[0]}')
    return Choice(**message[0])
