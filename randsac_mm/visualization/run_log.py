"""What a work directory records of its run: logged scalars of all sessions, config, checkpoint, command, hardware.

A session is one start of the program, in a folder ``<date>_<time>``. A run that was resumed has several; a work
directory may also contain several runs, if the same config was started anew.
"""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from randsac_mm.engine.launch import find_checkpoint
from randsac_mm.engine.origin import ORIGIN_FILE
from randsac_mm.transfer.reading import read_checkpoint

Series = tuple[list[int], list[float]]  # ascending steps, and finite values


class Session(NamedTuple):
    """One start of the program."""

    name: str  # of its folder: date and time of the start
    resumed: int | None  # iteration of the checkpoint that it resumed from; None if it started a run
    origin: dict[str, Any]  # contents of origin.json: command, commit, hardware, versions; may be empty


class RunLog(NamedTuple):
    """The record of a run."""

    work_dir: Path
    sessions: list[Session]  # of the run that made the checkpoint, else of the last run, in order of time
    scalars: dict[str, Series]  # by name; where a later session repeats steps, its values count
    config: Path | None  # the complete config of the last session
    checkpoint: Path | None  # the chosen or else the last complete one
    meta: dict[str, Any]  # of the checkpoint; empty if it cannot be read
    notes: list[str]  # sentences on what could not be read or was left out


def read_run(work_dir: str | Path, checkpoint: str | Path | None = None) -> RunLog:
    """Read a work directory of mmengine; ``checkpoint`` names one of the run if another than the last is meant.

    Raises:
        FileNotFoundError: If there is no such folder, or neither log, config nor checkpoint in it.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise FileNotFoundError(f'there is no work directory {work_dir}; tools/train.py makes work_dirs/<config>')
    notes: list[str] = []
    folders = [folder for folder in sorted(work_dir.iterdir()) if re.fullmatch(r'\d{8}_\d{6}', folder.name)]
    sessions = [_read_session(folder, notes) for folder in folders]
    chosen = find_checkpoint(work_dir) if checkpoint is None else Path(checkpoint)
    meta = _read_meta(chosen)
    used = _one_run(sessions, str(meta.get('experiment_name', '')))
    if len(used) < len(sessions):
        others = ', '.join(session.name for session in sessions if session not in used)
        notes.append(f'{work_dir} contains another run, which is not shown: {others}.')
    configs = [path for s in reversed(used) if (path := work_dir / s.name / 'vis_data' / 'config.py').is_file()]
    configs += sorted(work_dir.glob('*.py'))
    if not sessions and not configs and chosen is None:
        raise FileNotFoundError(f'{work_dir} contains no log (<date>_<time>/), no config and no checkpoint of a run')
    scalars: dict[str, Series] = {}
    for session in used:  # what an earlier session computed beyond the checkpoint was lost
        for name, (steps, values) in read_scalars(work_dir / session.name / 'vis_data' / 'scalars.json', notes).items():
            old = [pair for pair in zip(*scalars.get(name, ([], [])), strict=True) if pair[0] < steps[0]]
            scalars[name] = ([s for s, _ in old] + steps, [v for _, v in old] + values)
    return RunLog(work_dir, used, scalars, configs[0] if configs else None, chosen, meta, notes)


def read_scalars(path: str | Path, notes: list[str]) -> dict[str, Series]:
    """Read the numbers in mmengine's ``scalars.json`` by name; of several entries of a step the last one counts.

    What is left out is described in ``notes``: lines that cannot be read, as the last one of a killed run, and losses
    that are not finite. Without such a file nothing is read.
    """
    found: dict[str, dict[int, float]] = {}
    broken, not_finite = 0, 0
    for line in Path(path).read_text(errors='replace').splitlines() if Path(path).is_file() else ():
        try:
            entry = json.loads(line)
            step = int(entry.get('iter', entry.get('step', 0)))
        except (AttributeError, TypeError, ValueError):
            broken += 1
            continue
        for name in entry.keys() - {'epoch', 'iter', 'step'}:
            if isinstance(entry[name], (int, float)) and math.isfinite(entry[name]):
                found.setdefault(name, {})[step] = float(entry[name])
            else:
                not_finite += name == 'loss'
    if broken:
        notes.append(f'{path}: {broken} line(s) could not be read and were left out.')
    if not_finite:
        notes.append(f'{path}: {not_finite} logged losses are not finite and are left out of the curve.')
    return {name: (sorted(values), [values[step] for step in sorted(values)]) for name, values in found.items()}


def _read_session(folder: Path, notes: list[str]) -> Session:
    log, file = folder / f'{folder.name}.log', folder / ORIGIN_FILE
    resumed = re.search(r'resumed epoch: \d+, iter: (\d+)', log.read_text(errors='replace') if log.is_file() else '')
    origin: dict[str, Any] = {}
    try:
        origin = dict(json.loads(file.read_text())) if file.is_file() else {}
    except (TypeError, ValueError) as error:
        notes.append(f'{file} could not be read: {error}.')
    return Session(folder.name, int(resumed[1]) if resumed else None, origin)


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
    with contextlib.suppress(OSError, ValueError):  # loading the weights will report it
        meta = read_checkpoint(checkpoint).get('meta') if checkpoint is not None else {}
        return meta if isinstance(meta, dict) else {}
    return {}
