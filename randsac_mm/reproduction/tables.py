"""Tables for people and programs: the paper's values beside ours, and whether the paper's order is there."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import load
from scipy import stats

from randsac_mm.files import atomic_write

from .protocols import Protocol
from .stages import STAGES, Job

MEASURES = ('linear', 'knn', 'finetune')


class Row(NamedTuple):
    """One row of a table of the paper, or one of ours."""

    name: str
    recipe: str | None  # key of RECIPES, or None if there is no code to run
    linear: float | None = None  # the paper's linear probe, percent
    finetune: float | None = None  # the paper's fine-tuning, percent
    note: str = ''


class Table(NamedTuple):
    """One table of the paper; ``orders`` are its conclusions, pairs of names of a worse and a better row."""

    title: str
    rows: list[Row]
    orders: list[tuple[str, str]]


def load_tables(path: Path) -> dict[int, Table]:
    """Read what the paper reports, ``configs/paper_tables.yml``, by the paper's numbers of the tables."""
    return {
        number: Table(table['title'], [Row(*row) for row in table['rows']], [tuple(pair) for pair in table['orders']])
        for number, table in load(path).items()
    }


class Measured(NamedTuple):
    """What was measured for one row."""

    row: Row
    values: dict[str, dict[int, float]]  # by measure, then by seed, percent
    runs: dict[int, dict[str, Any]]  # the results of all stages, by seed


def measure(row: Row, jobs: Sequence[Job]) -> Measured:
    """Collect the results of a row's runs, one of each seed, as far as they are done."""
    values: dict[str, dict[int, float]] = {name: {} for name in MEASURES}
    runs = {}
    for job in jobs:
        results = {stage: job.result(stage) for stage in STAGES}
        done = {stage: result for stage, result in results.items() if result is not None}
        if done:
            runs[job.seed] = done
        if 'probe' in done:
            values['linear'][job.seed], values['knn'][job.seed] = done['probe']['linear'], done['probe']['knn']
        # A classifier trained from scratch is its own fine-tuning.
        accuracy = done.get('finetune', done.get('probe', {})).get('accuracy')
        if accuracy is not None:
            values['finetune'][job.seed] = accuracy
    return Measured(row, values, runs)


def compare_rows(worse: Measured, better: Measured, name: str) -> dict[str, Any] | None:
    """Compare two rows seed by seed.

    A difference counts if it has one sign for all of at least three seeds and a paired t-test rejects chance at the
    level of 5 %. With many claims some will pass by chance all the same.

    Args:
        worse: The row that the paper finds worse.
        better: The row that the paper finds better.
        name: One of :data:`MEASURES`.

    Returns:
        Plain values, in percent: mean, standard error, by seed, and whether the paper's order is there. None if the
        rows have no common seed.
    """
    seeds = sorted(worse.values[name].keys() & better.values[name].keys())
    if not seeds:
        return None
    differences = [better.values[name][seed] - worse.values[name][seed] for seed in seeds]
    count, mean = len(seeds), statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else None
    if count < 3:
        words = 'too few seeds'
    elif min(differences) < 0 < max(differences) or abs(mean) <= stats.t.ppf(0.975, count - 1) * error:
        words = 'cannot be told'
    else:
        words = 'yes' if mean > 0 else 'no: the other way round'
    return {
        'worse': worse.row.name,
        'better': better.row.name,
        'difference': round(mean, 2),
        'standard_error': None if error is None else round(error, 2),
        'by_seed': {str(seed): round(value, 2) for seed, value in zip(seeds, differences, strict=True)},
        'as_in_the_paper': words,
    }


def write_table(
    number: int, table: Table, rows: Sequence[Measured], protocol: Protocol, command: str, out: Path
) -> None:
    """Write ``tableN.json`` and ``tableN.md`` of the paper's table ``number`` to the folder ``out``."""
    by_name = {entry.row.name: entry for entry in rows}
    orders = {
        name: [compare_rows(by_name[worse], by_name[better], name) for worse, better in table.orders]
        for name in MEASURES
    }
    content = {
        'table': number,
        'title': table.title,
        'command': command,
        'scaled': protocol.what,
        'rows': [_row_json(entry) for entry in rows],
        'orders': {name: [order for order in found if order] for name, found in orders.items()},
    }
    with atomic_write(out / f'table{number}.json') as path:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + '\n')
    with atomic_write(out / f'table{number}.md') as path:
        path.write_text(_markdown(rows, content))


def _row_json(entry: Measured) -> dict[str, Any]:
    row = entry.row
    return {
        'name': row.name,
        'recipe': row.recipe,
        'note': row.note,
        'paper': {'linear': row.linear, 'finetune': row.finetune},
        'ours': {
            name: {
                'mean': round(statistics.mean(seeds.values()), 2),
                'std': round(statistics.stdev(seeds.values()), 2) if len(seeds) > 1 else None,
                'by_seed': {str(seed): round(value, 2) for seed, value in seeds.items()},
            }
            for name, seeds in entry.values.items()
            if seeds
        },
        'runs': {str(seed): run for seed, run in entry.runs.items()},
    }


def format_spread(values: dict[int, float]) -> str:
    """Write mean and standard deviation over seeds.

    Example:
        >>> format_spread({0: 80.0, 1: 82.0, 2: 81.0}), format_spread({0: 80.0}), format_spread({})
        ('81.0 ± 1.0', '80.0', '-')
    """
    if not values:
        return '-'
    mean = f'{statistics.mean(values.values()):.1f}'
    return f'{mean} ± {statistics.stdev(values.values()):.1f}' if len(values) > 1 else mean


def _markdown(rows: Sequence[Measured], content: dict[str, Any]) -> str:
    header = 'row | paper: linear | fine-tuned | ours: linear | kNN | fine-tuned | seeds '
    header += '| epochs x images | seconds | commit'
    lines = [
        f'# Table {content["table"]}: {content["title"]}\n',
        f'Scaled: {content["scaled"]}.\n',
        f'Command: `{content["command"]}`\n',
        'Percent of test images; ours: mean ± standard deviation over seeds.\n',
        *_table(header.split(' | '), [_cells(entry) for entry in rows]),
    ]
    notes = [f'* {entry.row.name}: {entry.row.note}.' for entry in rows if entry.row.note]
    lines += ['', *notes] if notes else []
    claims = []
    for name, orders in content['orders'].items():
        for order in orders:
            error = '' if order['standard_error'] is None else f' ± {order["standard_error"]:.2f}'
            seeds = ', '.join(f'{value:+.2f}' for value in order['by_seed'].values())
            claim, difference = f'{order["worse"]} < {order["better"]}', f'{order["difference"]:+.2f}{error}'
            claims.append([claim, name, difference, seeds, order['as_in_the_paper']])
    if claims:
        header = 'claim of the paper | by | difference ± standard error | by seed | as in the paper'
        lines += [
            "\n## Is the paper's order there?\n",
            *_table(header.split(' | '), claims),
            '\n"Yes" or "no" only where three seeds or more agree in sign and a paired t-test gives p < 0.05.',
        ]
    stages = [stage for entry in rows for run in entry.runs.values() for stage in run.values()]
    hardware = dict.fromkeys(_hardware(stage) for stage in stages)
    if hardware:
        lines += [f'\nHardware: {"; ".join(hardware)}. Seconds: of one pre-training, other runs beside it.']
    return '\n'.join(lines) + '\n'


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [f'| {" | ".join(cells)} |' for cells in (header, *rows)]
    return [lines[0], '|' + '---|' * len(header), *lines[1:]]


def _cells(entry: Measured) -> list[str]:
    runs = list(entry.runs.values())
    trained = [run['pretrain'] for run in runs if 'pretrain' in run]
    return [
        entry.row.name,
        *['-' if value is None else f'{value:g}' for value in (entry.row.linear, entry.row.finetune)],
        *[format_spread(entry.values[name]) for name in MEASURES],
        ', '.join(map(str, entry.runs)) or 'not run',
        ' / '.join(dict.fromkeys(f'{run["epochs"]} x {run["images"]:,}' for run in trained)) or '-',
        f'{statistics.mean(run["seconds"] for run in trained):.0f}' if trained else '-',
        ' / '.join(dict.fromkeys(stage['origin']['commit'] for run in runs for stage in run.values())) or '-',
    ]


def _hardware(stage: dict[str, Any]) -> str:
    origin = stage['origin']
    cores = f'{origin["hardware"]}, {stage["threads"]} of {origin["cores"]} cores'
    return ', '.join([*origin['gpus'][:1], cores])
