"""What a work directory says about its run: logged scalars of all sessions, config, versions, hardware, command.

A session is one start of the program, in a folder ``<date>_<time>``. A run that was resumed has several; a work
directory may also hold several runs, if the same config was started anew.
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from randsac_mm.engine.launch import find_checkpoint
from randsac_mm.engine.origin import ORIGIN_FILE
from randsac_mm.transfer.reading import read_checkpoint

Series = tuple[list[int], list[float]]  # steps, ascending, and values

_STEPS = ('epoch', 'iter', 'step')  # keys of an entry that are no values
_ENTRY = re.compile(r' {4}(Python|PyTorch|TorchVision|MMEngine|GPU [\d,]+|NVCC|seed|Distributed launcher): (.+)')
_RESUMED = re.compile(r'resumed epoch: \d+, iter: (\d+)')


class Session(NamedTuple):
    """Describe one start of the program.

    Attributes:
        name: Name of its folder, the date and time when it started.
        first: First logged step, None if nothing was logged.
        last: Last logged step.
        resumed: Iteration of the checkpoint that it went on from; None if it began anew.
        environment: What mmengine wrote at the top of the log: versions, GPUs, seed.
        origin: What ``tools/train.py`` wrote: command, commit, hardware; empty for runs of other programs.
    """

    name: str
    first: int | None
    last: int | None
    resumed: int | None
    environment: dict[str, str]
    origin: dict[str, Any]


class RunLog(NamedTuple):
    """Hold what a work directory says.

    Attributes:
        work_dir: The folder.
        sessions: All starts of the run that made the checkpoint, else of the last run, in order of time.
        scalars: Every logged value by name, over steps. Where a later session repeats steps, because it went on from a
            checkpoint before them, its values count and the earlier session's from there on do not.
        config: File of the config that the last session ran, complete; None if there is none.
        checkpoint: The chosen or else the last complete checkpoint, None if there is none.
        meta: What the checkpoint says about itself; empty if it cannot be read.
        notes: What could not be read or was left out, in sentences.
    """

    work_dir: Path
    sessions: list[Session]
    scalars: dict[str, Series]
    config: Path | None
    checkpoint: Path | None
    meta: dict[str, Any]
    notes: list[str]


def read_run(work_dir: str | Path, checkpoint: str | Path | None = None) -> RunLog:
    """Read a work directory of mmengine.

    Args:
        work_dir: The folder.
        checkpoint: A checkpoint of the run, if another than the last one is meant.

    Returns:
        What it says.

    Raises:
        FileNotFoundError: If there is no such folder, or it holds neither log, config nor checkpoint.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'there is no work directory {work_dir}; tools/train.py makes work_dirs/<config>')
    notes: list[str] = []
    folders = sorted(folder for folder in work_dir.iterdir() if re.fullmatch(r'\d{8}_\d{6}', folder.name))
    logged = [_read_scalars(folder / 'vis_data' / 'scalars.json', notes) for folder in folders]
    sessions = [_session(folder, scalars, notes) for folder, scalars in zip(folders, logged, strict=True)]
    chosen = find_checkpoint(work_dir) if checkpoint is None else Path(checkpoint)
    meta = _read_meta(chosen)
    used = _one_run(sessions, str(meta.get('experiment_name', '')))
    if len(used) < len(sessions):
        others = ', '.join(s.name for s in sessions if s not in used)
        notes.append(f'{work_dir} holds another run as well, which is not shown: {others}')
    scalars = join_sessions([logged[sessions.index(session)] for session in used])
    configs = [path for s in reversed(used) if (path := work_dir / s.name / 'vis_data' / 'config.py').is_file()]
    configs += sorted(work_dir.glob('*.py'))
    if not folders and not configs and chosen is None:
        raise FileNotFoundError(
            f'{work_dir} is no work directory of a run: it holds no log (<date>_<time>/), no config and no checkpoint'
        )
    return RunLog(work_dir, used, scalars, configs[0] if configs else None, chosen, meta, notes)


def join_sessions(logged: list[dict[str, Series]]) -> dict[str, Series]:
    """Join the scalars of several sessions by step.

    Args:
        logged: Scalars of each session, in order of time.

    Returns:
        Scalars of the run. Before the first step of a later session an earlier one's values count, after it never:
        what that had computed beyond the checkpoint was lost.

    Example:
        >>> join_sessions([{'loss': ([1, 2, 3], [5.0, 4.0, 3.5])}, {'loss': ([2], [4.1])}])
        {'loss': ([1, 2], [5.0, 4.1])}
    """
    joined: dict[str, Series] = {}
    for scalars in logged:
        for name, (steps, values) in scalars.items():
            old = [pair for pair in zip(*joined.get(name, ([], [])), strict=True) if pair[0] < steps[0]]
            joined[name] = ([s for s, _ in old] + steps, [v for _, v in old] + values)
    return joined


def _read_scalars(path: Path, notes: list[str]) -> dict[str, Series]:
    """Read mmengine's log, one JSON object a line; the last line of a killed run may be cut."""
    if not path.is_file():
        return {}
    found: dict[str, dict[int, float]] = {}
    broken = 0
    for line in path.read_text(errors='replace').splitlines():
        try:
            entry = json.loads(line) if line.strip() else {}
            step = int(entry.get('iter', entry.get('step', 0)))
        except (AttributeError, TypeError, ValueError):
            broken += 1
            continue
        for name, value in entry.items():
            if name not in _STEPS and isinstance(value, (int, float)):
                found.setdefault(name, {})[step] = float(value)
    if broken:
        notes.append(f'{path}: {broken} line(s) could not be read and were left out')
    return {name: (sorted(values), [values[step] for step in sorted(values)]) for name, values in found.items()}


def _session(folder: Path, scalars: dict[str, Series], notes: list[str]) -> Session:
    steps = scalars.get('loss', ([], []))[0] or sorted({s for steps, _ in scalars.values() for s in steps})
    environment, resumed = _read_log(folder / f'{folder.name}.log')
    origin: dict[str, Any] = {}
    if (folder / ORIGIN_FILE).is_file():
        try:
            origin = dict(json.loads((folder / ORIGIN_FILE).read_text()))
        except (TypeError, ValueError) as error:
            notes.append(f'{folder / ORIGIN_FILE} could not be read: {error}')
    ends = (steps[0], steps[-1]) if steps else (None, None)
    return Session(folder.name, *ends, resumed, environment, origin)


def _read_log(path: Path) -> tuple[dict[str, str], int | None]:
    """Read from mmengine's log which versions there were, and which iteration the session went on from."""
    environment: dict[str, str] = {}
    if path.is_file():
        with open(path, errors='replace') as lines:
            for line in lines:
                if match := _ENTRY.fullmatch(line.rstrip()):
                    environment.setdefault(match[1], match[2])
                elif match := _RESUMED.search(line):
                    return environment, int(match[1])
    return environment, None


def _one_run(sessions: list[Session], experiment: str) -> list[Session]:
    """Choose the sessions of one run: of that which ``experiment``, a checkpoint's, names at its end, else the last."""
    runs: list[list[Session]] = []
    for session in sessions:
        if session.resumed is None or not runs:
            runs.append([])
        runs[-1].append(session)
    made = [run for run in runs if any(experiment.endswith(session.name) for session in run)]
    return [*made, *runs[-1:], []][0]


def _read_meta(checkpoint: Path | None) -> dict[str, Any]:
    try:
        meta = {} if checkpoint is None else read_checkpoint(checkpoint).get('meta', {})
    except (OSError, ValueError):  # whoever loads the weights will say so
        meta = {}
    return meta if isinstance(meta, dict) else {}
