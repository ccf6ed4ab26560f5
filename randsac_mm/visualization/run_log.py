"""What a work directory records of its run: logged scalars, config, checkpoint, command and hardware.

A session is one start of the program, in a folder ``<date>_<time>``. A resumed run has several; a config that was
started anew leaves several runs in one work directory.
"""

import contextlib
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from randsac_mm.engine.origin import ORIGIN_FILE
from randsac_mm.engine.work_dir import find_checkpoint
from randsac_mm.transfer.reading import read_checkpoint

Series = dict[int, float]  # finite values by step, ascending


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
    work_dir, notes = Path(work_dir), []
    sessions = [_read_session(path) for path in sorted(work_dir.glob('*')) if re.fullmatch(r'\d{8}_\d{6}', path.name)]
    chosen = find_checkpoint(work_dir) if checkpoint is None else Path(checkpoint)
    meta: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):  # loading the weights will report it
        meta = dict(read_checkpoint(chosen, meta_only=True).get('meta') or {}) if chosen else {}
    used = _one_run(sessions, str(meta.get('experiment_name', '')))
    if len(used) < len(sessions):
        others = ', '.join(session.name for session in sessions if session not in used)
        notes.append(f'{work_dir} contains another run, which is not shown: {others}.')
    folders = [work_dir / session.name / 'vis_data' for session in used]
    configs = [file for folder in folders[::-1] for file in folder.glob('config.py')] + sorted(work_dir.glob('*.py'))
    if not sessions and not configs and chosen is None:
        raise FileNotFoundError(f'{work_dir} contains no log (<date>_<time>/), no config and no checkpoint of a run')
    scalars: dict[str, Series] = {}
    for folder in folders:  # what an earlier session computed beyond the checkpoint was lost
        for name, series in read_scalars(folder / 'scalars.json', notes).items():
            before = {step: value for step, value in scalars.get(name, {}).items() if step < min(series)}
            scalars[name] = before | series
    return RunLog(work_dir, used, scalars, configs[0] if configs else None, chosen, meta, notes)


def read_scalars(path: str | Path, notes: list[str]) -> dict[str, Series]:
    """Read the finite numbers in mmengine's ``scalars.json``, if there is one; append to ``notes`` what is left out."""
    found: dict[str, Series] = {}
    skipped = 0
    for line in Path(path).read_text(errors='replace').splitlines() if Path(path).is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            skipped += 1  # as the last line of a killed run
            continue
        step = entry.get('iter', entry.get('step', 0))
        for name in entry.keys() - {'epoch', 'iter', 'step'}:
            if isinstance(entry[name], (int, float)) and math.isfinite(entry[name]):
                found.setdefault(name, {})[step] = float(entry[name])
            else:
                skipped += name == 'loss'
    if skipped:
        notes.append(f'{path}: {skipped} line(s) are damaged or have a loss that is not finite, and were left out.')
    return {name: dict(sorted(series.items())) for name, series in found.items()}


def _read_session(folder: Path) -> Session:
    log, origin = folder / f'{folder.name}.log', folder / ORIGIN_FILE
    resumed = re.search(r'resumed epoch: \d+, iter: (\d+)', log.read_text(errors='replace') if log.is_file() else '')
    described = json.loads(origin.read_text()) if origin.is_file() else {}
    return Session(folder.name, int(resumed[1]) if resumed else None, described)


def _one_run(sessions: list[Session], experiment: str) -> list[Session]:
    """Choose the sessions of one run: of that which ``experiment``, a checkpoint's, names at its end, else the last."""
    runs: list[list[Session]] = []
    for session in sessions:
        if session.resumed is None or not runs:
            runs.append([])
        runs[-1].append(session)
    made = [run for run in runs if any(experiment.endswith(session.name) for session in run)]
    return [*made, *runs[-1:], []][0]
