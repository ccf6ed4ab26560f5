"""Tables, JSON and plots of step.py."""

import json
from collections.abc import Sequence
from pathlib import Path

from step_models import KNOWN
from step_variants import PHASES

COLUMNS = (
    'variant', 'images/s', 'step', 'quartiles', *PHASES, 'use of rate', '/ ours', 'memory', 'syncs', 'first three',
)  # fmt: skip
LEGEND = """\
step and its phases: milliseconds, medians. use of rate: operations that the result needs (closed form, backward twice
forward, masked pairs counted in full), per second, over the matrix rate of the same round on the model's own shapes, by
the fastest kernel for each product. / ours: time over that of the variant marked *, median over rounds. memory: GB that
a training step adds up to, weights and optimiser included. syncs: how often the host waits in a step. first three:
seconds until a loss and two steps are done, compiling included."""


def write_json(out: Path, name: str, result: dict) -> Path:
    """Write a result below a folder, at once and whole, so that a run that is stopped leaves what it had."""
    out.mkdir(parents=True, exist_ok=True)
    path, draft = out / f'{name}.json', out / f'{name}.json.draft'
    draft.write_text(json.dumps(result, indent=2) + '\n')
    draft.replace(path)
    return path


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table: the first row is the head; all columns but the first are numbers.

    Example:
        >>> print(markdown([['a', 'b'], ['long', '1']]))
        | a    | b |
        |------|--:|
        | long | 1 |
    """
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    widths = [widths[0], *(max(width, 1) for width in widths[1:])]

    def line(row: Sequence[str]) -> str:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))]
        return '| ' + ' | '.join(cells) + ' |'

    rule = ['-' * (widths[0] + 2), *('-' * (w + 1) + ':' for w in widths[1:])]
    return '\n'.join([line(rows[0]), '|' + '|'.join(rule) + '|', *map(line, rows[1:])])


def step_table(result: dict) -> str:
    """Write the step's figures of one model for people."""
    rows = [list(COLUMNS)]
    for name, row in result['variants'].items():
        if 'left_out' in row:
            rows.append([f'{name}: {row["left_out"]}', *[''] * (len(COLUMNS) - 1)])
            continue
        step = row['step']
        low, high = (f'{1e3 * value:.1f}' for value in step['quartiles'])
        memory, syncs = row.get('memory_bytes'), row.get('host_syncs')
        rows.append(
            [
                name + (' *' if name == result['ours'] else ''),
                f'{row["images_per_second"]:.1f}',
                f'{1e3 * step["median"]:.1f}',
                f'{low} .. {high}',
                *(f'{1e3 * row[phase]:.1f}' for phase in PHASES),
                f'{100 * row["utilisation"]:.1f} %',
                f'{row["ratio"]:.2f}' if row['ratio'] else '',
                f'{memory / 1e9:.2f}' if memory else '',
                '' if syncs is None else str(syncs),
                f'{row["first_seconds"]:.1f}',
            ]
        )
    return markdown(rows)


def heading(result: dict) -> str:
    """Say in a line or two what was timed, and the rate that it is compared with."""
    about = f'{KNOWN[result["model"]].label}, {result["segments"]}, batch {result["batch"]}, {result["dtype"]}'
    if 'matrix_rates' not in result:
        return f'{about}, not timed'
    rates = ', '.join(f'{name} {rate["median"] / 1e9:,.0f}' for name, rate in result['matrix_rates'].items())
    return (
        f'{about}, {result["rounds"]} rounds; {result["multiply_adds"] / 1e9:.2f} G multiply-adds an image\n'
        f'matrix rate on its shapes, GFLOP/s: {rates}'
    )


def parts_table(results: Sequence[dict]) -> str:
    """Write the figures of the data path and of whole runs for people."""
    rows = [['part', 'model', 'batch', 'images/s', 'steps']]
    rows += [
        [r['part'], KNOWN[r['model']].label, str(r['batch']), f'{r["images_per_second"]:.1f}', str(r['steps'])]
        for r in results
    ]
    return markdown(rows)


def document(report: dict) -> str:
    """Write a whole report in Markdown."""
    where = report['environment']
    lines = [
        f'{where["hardware"]}, {where["threads"]} threads, torch {where["torch"]}, commit {where["commit"]}, '
        f'{where["date"]}',
        f'`{where["command"]}`',
        '',
    ]
    for result in report['steps']:
        lines += [heading(result), '', step_table(result), '']
    if report['steps']:
        lines += [LEGEND, '']
    if report['parts']:
        lines += [parts_table(report['parts']), '']
    return '\n'.join(lines)


def plot(report: dict, path: Path) -> None:
    """Draw the utilisation of every variant of every model as bars, with quartiles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [r for r in report['steps'] if any('step' in row for row in r['variants'].values())]
    if not shown:
        return
    figure = Figure(figsize=(9, 1 + 0.32 * sum(len(r['variants']) + 2 for r in shown)), layout='constrained')
    FigureCanvasAgg(figure)
    sizes = [len(r['variants']) + 1 for r in shown]
    axes = figure.subplots(len(shown), 1, squeeze=False, sharex=True, height_ratios=sizes)[:, 0]
    for ax, result in zip(axes, shown, strict=True):
        rows = {name: row for name, row in result['variants'].items() if 'step' in row}
        use = [100 * row['utilisation'] for row in rows.values()]
        median = [row['step']['median'] for row in rows.values()]
        # A slow step is a low bar: the upper quartile of time is the lower end of the whisker.
        quartiles = [row['step']['quartiles'] for row in rows.values()]
        ends = [
            [u - u * m / high for u, m, (_, high) in zip(use, median, quartiles, strict=True)],
            [u * m / low - u for u, m, (low, _) in zip(use, median, quartiles, strict=True)],
        ]
        colours = ['#999999' if name.startswith(('plain', 'mae')) else '#1f77b4' for name in rows]
        ax.barh(range(len(rows)), use, xerr=ends, color=colours, error_kw=dict(linewidth=0.8))
        ax.set_yticks(range(len(rows)), list(rows))
        ax.invert_yaxis()
        ax.set_title(heading(result).splitlines()[0], fontsize=9, loc='left')
        for i, row in enumerate(rows.values()):
            ax.text(0.5, i, f'{row["images_per_second"]:.3g} images/s', va='center', fontsize=7, color='white')
    axes[-1].set_xlabel('needed operations per second, percent of the measured matrix rate')
    axes[-1].set_xlim(left=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
