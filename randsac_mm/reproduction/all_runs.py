"""All runs of some tables in order: results are written after every stage, within a limit of time if there is one."""

import os
import signal
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from .stages import STAGES, Job, applies, run_stages


class OutOfTimeError(BaseException):
    """The time of :func:`time_limit` is over; like KeyboardInterrupt no ordinary error."""


def run_all(jobs: Sequence[Job], minutes: float | None, write: Callable[[], None]) -> list[str]:
    """Run all stages that have not been done; after each call ``write`` and print its result and the time left.

    Args:
        jobs: The runs, in their order.
        minutes: Limit for all; a training that it ends has a checkpoint, from which it continues the next time.
        write: Writes the tables.

    Returns:
        Which runs are not complete, and why, a line each.
    """

    def report(job: Job, stage: str) -> None:
        write()
        print(f'  {_describe(job.result(stage))}; {_describe_rest(jobs)}', flush=True)

    incomplete, job = [], None
    try:
        with time_limit(None if minutes is None else 60 * minutes):
            for job in jobs:
                if not run_stages(job, report):
                    incomplete.append(f'{job.recipe}, seed {job.seed}: another process is at it')
    except OutOfTimeError:
        incomplete.append(f'{job.recipe}, seed {job.seed}, and what follows: {minutes:g} minutes were the limit')
    return incomplete


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTimeError in the block at 95 % of so many seconds; a training then writes a checkpoint first."""
    rang = False

    def ring(number: int, frame: Any) -> None:
        nonlocal rang
        rang = True
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL:
            raise OutOfTimeError
        os.kill(os.getpid(), signal.SIGUSR1)  # see StopOnSignalHook

    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.95 * seconds)
    try:
        yield
    except SystemExit as end:
        raise OutOfTimeError if rang else end from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _describe(result: dict[str, Any]) -> str:
    words = [f'{name} {result[name]:.1f}' for name in ('knn', 'linear', 'accuracy') if name in result]
    if 'epochs' in result:
        words.append(f'{result["epochs"] * result["images"] / result["seconds"]:,.0f} images/s')
    return ', '.join([*words, f'{result["seconds"]:.0f} s'])


def _describe_rest(jobs: Sequence[Job]) -> str:
    """Return how many stages are done, and the time left if others take as long as those of their kind that are."""
    results = {(job, stage): job.result(stage) for job in jobs for stage in STAGES if applies(job, stage)}
    seconds = {stage: [r['seconds'] for (_, other), r in results.items() if r and other == stage] for stage in STAGES}
    left = [stage for (_, stage), result in results.items() if not result]
    text = f'{len(results) - len(left)} of {len(results)} stages'
    if not all(seconds[stage] for stage in left):
        return text
    return f'{text}, about {sum(statistics.mean(seconds[stage]) for stage in left) / 60:.0f} min left'
