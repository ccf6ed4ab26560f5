"""The sections of a report: of a run's log, of results of probes, of finished pictures. Each is a list of elements."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .html import Html, element, image, join, table
from .page import missing
from .report_parts import Part
from .run_log import RunLog, Series, Session
from .svg import Curve, line_chart

_WIDE = 900  # pixels of width from which a picture is scrolled on a phone instead of shrunk
_CURVES = 4  # in one chart, as many as there are colours


def summary(run: RunLog) -> list[tuple[str, str]]:
    """Choose the figures that stand at the top, each with its name."""
    pairs = []
    if loss := _finite(run.scalars.get('loss')):
        pairs += [('Iterations', f'{loss[0][-1]:,}'), ('Last logged loss', f'{loss[1][-1]:.4f}')]
    if speed := _finite(run.scalars.get('images_per_s')):
        pairs.append(('Images a second, median', f'{statistics.median(speed[1]):,.0f}'))
    for name in _probe_names(run.scalars):
        if series := _finite(run.scalars[name]):
            pairs.append((f'Online probe, {name.removeprefix("probe/")}', f'{series[1][-1]:.1f} %'))
    if run.checkpoint is not None:
        pairs.append(('Checkpoint', run.checkpoint.name))
    if len(run.sessions) > 1:
        pairs.append(('Sessions', str(len(run.sessions))))
    return pairs


def commands_section(sessions: Sequence[Session], about: dict[str, Any]) -> list[Html]:
    """Show the commands that made the run and the page."""
    known = [session for session in sessions if session.origin.get('command')]
    parts = []
    if len(known) < len(sessions) or not sessions:
        parts.append(
            missing(
                f'The work directory does not say which command made {"the run" if not known else "every session"}: '
                'it was not started by tools/train.py, or by an older one. The config below is complete.'
            )
        )
    for session in known:
        text = f'The run, from {session.origin.get("folder", "an unknown folder")} ({session.name}):'
        parts += [element('p', text), element('pre', str(session.origin['command']), class_='command')]
    return [*parts, element('p', 'This page:'), element('pre', about['command'], class_='command')]


def curves_section(run: RunLog) -> list[Html]:
    """Draw loss and learning rate, and say how they were put together."""
    charts = []
    for key, title, label in (
        ('loss', 'Loss', 'mean squared error'),
        ('lr', 'Learning rate', 'of the first parameter group'),
    ):
        if series := _finite(run.scalars.get(key)):
            curves = [Curve(title, *series)]
            width = max(1, len(series[0]) // 40)
            if key == 'loss' and width > 1:
                curves = [Curve('as logged', *series), Curve(f'mean of {width} entries', *_smooth(series, width))]
            charts.append(line_chart(title, 'iteration', label, curves, may_be_log=key == 'loss'))
    parts = [element('div', *charts, class_='charts')] if charts else []
    if not charts:
        parts.append(missing('No loss was logged yet: scalars.json is missing or empty (LoggerHook.interval).'))
    bad = sum(not math.isfinite(value) for value in run.scalars.get('loss', ([], []))[1])
    if bad:
        parts.append(missing(f'{bad} logged losses are not finite and are left out of the curve.'))
    resumed = [f'{s.name} (from iteration {s.resumed:,})' for s in run.sessions if s.resumed is not None]
    if resumed:
        text = 'The run was resumed; curves are joined by iteration, and what a later session repeated counts.'
        parts.append(element('p', f'{text} Resumed sessions: {", ".join(resumed)}.'))
    return parts + [missing(f'{note}.') for note in run.notes]


def speed_section(scalars: dict[str, Series]) -> list[Html]:
    """Draw images a second, and list where time and memory went."""
    speed = _finite(scalars.get('images_per_s'))
    if speed is None:
        return [missing('The log holds no images_per_s: WhereTimeGoesHook was not among the hooks of the run.')]
    names = {
        'images_per_s': 'images a second',
        'data_share': 'share of time waiting for data',
        'launch_share': "share of the host's time in the step",
        'compute_share': "share of the device's time in the step",
        'time': 'seconds a step',
        'memory': 'device memory at its peak (MB)',
        'probe/seconds': 'seconds for one online probe',
    }
    rows = []
    for key, name in names.items():
        if series := _finite(scalars.get(key)):
            values = series[1]
            rows.append([name, *(f'{f(values):,.4g}' for f in (statistics.median, min, max))])
    chart = line_chart('Speed', 'iteration', 'images a second', [Curve('images a second', *speed)])
    head = ['', 'median', 'least', 'greatest']
    return [element('div', chart, class_='charts'), table('Over all entries of the log', head, rows)]


def probe_sections(scalars: dict[str, Series], probes: dict[str, Any]) -> list[tuple[str, list[Html]]]:
    """Draw scalars ``probe/...`` of the log, and list results of probes; sections with their titles, or none."""
    sections = []
    curves = [
        Curve(name.removeprefix('probe/'), *series, dots=True)
        for name in _probe_names(scalars)
        if (series := _finite(scalars[name]))
    ]
    if curves:
        charts = [
            line_chart('Online probe', 'step', 'accuracy in percent', curves[i : i + _CURVES])
            for i in range(0, len(curves), _CURVES)
        ]
        note = 'Accuracy of frozen features on a labelled data set of its own, while the run was going on.'
        sections.append(('Probe while training', [element('p', note), element('div', *charts, class_='charts')]))
    if probes:
        sections.append(('Probe results', [_probe_table(name, result) for name, result in probes.items()]))
    return sections


def _probe_table(name: str, result: Any) -> Html:
    rows = result.get('accuracy_percent') if isinstance(result, dict) else None
    if not isinstance(rows, dict) or not rows or not all(isinstance(row, dict) for row in rows.values()):
        return table(name, ['', 'value'], _flat(result), 'texts')
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    body = [[str(row), *(_value(values.get(column)) for column in columns)] for row, values in rows.items()]
    rest = _flat({key: value for key, value in result.items() if key != 'accuracy_percent'})
    parts = [table(f'Accuracy in percent ({name})', ['features', *columns], body)]
    if rest:
        inside = table(name, ['', 'value'], rest, 'texts')
        parts.append(element('details', element('summary', 'Everything else in this file'), inside))
    return join(*parts)


def _flat(result: Any, prefix: str = '') -> list[list[str]]:
    """List the scalars of nested dicts and lists, each with its path."""
    if isinstance(result, (dict, list)):
        pairs = result.items() if isinstance(result, dict) else enumerate(result)
        return [row for key, value in pairs for row in _flat(value, f'{prefix} / {key}' if prefix else str(key))]
    return [[prefix or 'value', _value(result)]]


def _value(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else 'none' if value is None else str(value)


def picture_section(part: Part) -> list[Html]:
    """Show a part, or why it is missing."""
    if part.missing is not None:
        return [missing(part.missing)]
    inside = [element('p', part.text)]
    for path, alt in part.pictures:
        picture = image(path, alt)
        width = int(picture.split('width="')[1].split('"')[0])
        kind = 'picture wide' if width >= _WIDE else 'picture'
        inside.append(element('figure', picture, class_=kind, tabindex='0', aria_label=part.title))
    if part.rows:
        figures = table(part.caption, list(part.head), [list(row) for row in part.rows])
        inside.append(element('details', element('summary', 'The same in numbers'), figures))
    return inside


def origin_section(run: RunLog) -> list[Html]:
    """List versions, hardware and commit of each session, and what the checkpoint says about itself."""
    parts = []
    for session in run.sessions:
        origin = {key: value for key, value in session.origin.items() if key not in ('command', 'folder')}
        rows = [[key, ', '.join(map(str, v)) if isinstance(v, list) else str(v)] for key, v in origin.items() if v]
        rows += [[f'{key} (log)', value] for key, value in session.environment.items()]
        if not rows:
            parts.append(missing(f'Session {session.name} left no record of versions and hardware.'))
            continue
        if not origin:
            rows.append(['hardware', 'not recorded by this version of tools/train.py'])
        parts.append(table(f'Session {session.name}', ['', 'value'], rows, 'texts'))
    if run.checkpoint is not None:
        parts.append(_checkpoint_table(run.checkpoint, run.meta))
    return parts


def _checkpoint_table(checkpoint: Path, meta: dict[str, Any]) -> Html:
    if not meta:
        return missing(f'{checkpoint} says nothing about itself, or cannot be read.')
    names = {'epoch': 'epoch', 'iter': 'iteration', 'time': 'saved', 'seed': 'seed', 'experiment_name': 'experiment'}
    rows = [[name, str(meta[key])] for key, name in names.items() if key in meta]
    version = str(meta.get('mmengine_version', ''))
    if len(version) > 40:  # mmengine writes the commit of the folder it was started in behind its version
        rows.append(['commit of the folder it was started in', version[-40:]])
    if checkpoint.is_file():
        rows.append(['size', f'{checkpoint.stat().st_size / 2**20:,.1f} MiB'])
    return table(f'Checkpoint {checkpoint}', ['', 'value'], rows, 'texts')


def config_section(path: Path | None) -> list[Html]:
    """Fold in the config, in full."""
    if path is None:
        return [missing('The work directory holds no config.')]
    text = path.read_text(errors='replace')
    summary = element('summary', f'{path}, {len(text.splitlines())} lines')
    return [element('details', summary, element('pre', text, tabindex='0'))]


def _probe_names(scalars: dict[str, Series]) -> list[str]:
    """List the logged accuracies; what a probe cost is logged under the same prefix."""
    return [name for name in scalars if name.startswith('probe/') and not name.endswith('seconds')]


def _finite(series: Series | None) -> Series | None:
    """Leave out what is not finite; None if nothing is left."""
    pairs = [pair for pair in zip(*(series or ([], [])), strict=True) if math.isfinite(pair[1])]
    return ([s for s, _ in pairs], [v for _, v in pairs]) if pairs else None


def _smooth(series: Series, width: int) -> tuple[list[float], list[float]]:
    """Average ``width`` neighbours."""
    return tuple([sum(part[i : i + width]) / width for i in range(len(part) - width + 1)] for part in series)
