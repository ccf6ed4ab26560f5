"""Run commands as users do, in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment(paths: tuple[Path, ...] = ()) -> dict[str, str]:
    """Return the environment of a command with ``paths`` to import from."""
    return {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join(map(str, [ROOT, *paths])),
        # Another port for every run of the tests; "python" is the one that runs them.
        'PORT': str(20000 + os.getpid() % 10000),
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
    }


def run(*command: object, ok: bool = True, cwd: Path = ROOT, paths: tuple[Path, ...] = ()) -> str:
    """Run a command with ``paths`` to import from; check whether it succeeds, and return what it writes."""
    command = list(map(str, command))
    done = subprocess.run(command, cwd=cwd, env=environment(paths), capture_output=True, text=True, timeout=300)
    assert (done.returncode == 0) == ok, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr
