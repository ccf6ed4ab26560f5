"""Training runs in forked processes, which start in milliseconds and can be killed."""

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engine.toy_engine import toy_config, trained_state
from mmengine.config import Config
from mmengine.runner import Runner

from randsac_mm.engine.work_dir import use_resume

COUNT = int(os.environ.get('RELIABILITY_RUNS', '0'))


def fork(folder: Path, work: Callable[[], None]) -> int:
    """Work in a process of its own, whose output is appended to ``output.txt``; return its number."""
    folder.mkdir(exist_ok=True)
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', DeprecationWarning)  # Python 3.12's, about threads: pytest-xdist has some
        process = os.fork()
    if process:
        return process
    status: Any = 1
    try:
        log = os.open(folder / 'output.txt', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        work()
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def start(folder: Path, **options) -> int:
    """Start a toy run with ``--resume auto``; its last weights go to ``final.pt``. Return the process's number."""

    def work() -> None:
        config = toy_config(folder, **options)
        config['experiment_name'] = f'run{os.getpid()}'
        config['default_hooks']['stop_on_signal'] = {'type': 'StopOnSignalHook'}
        cfg = Config(config)
        use_resume(cfg, 'auto')
        runner = Runner.from_cfg(cfg)
        runner.train()
        torch.save(trained_state(runner), folder / 'final.pt')

    return fork(folder, work)


def end(process: int, number: int | None = None, after: float = 0.0) -> tuple[int, float]:
    """Send a signal after some seconds, or none; return the exit status and the seconds since the signal."""
    time.sleep(after)
    begin = time.monotonic()
    if number is not None:
        os.kill(process, number)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    return status, time.monotonic() - begin


def kill_at_random(folder: Path, number: signal.Signals, moments: list[float], **options) -> list[tuple[int, float]]:
    """Interrupt a run at each of ``moments``, in seconds from its start, and let it end; return status and seconds."""
    found = [end(start(folder, **options), number, moment) for moment in moments]
    status, _ = end(start(folder, **options))
    assert status == 0, (folder / 'output.txt').read_text()[-3000:]
    return found
