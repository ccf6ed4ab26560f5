"""Tables for people and programs: the paper's values beside ours, and whether the paper's order is there."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

from randsac_mm.files import atomic_write

from .paper import TABLES, Row
from .protocols import Protocol
from .stages import STAGES, Job

MEASURES = ('linear', 'knn', 'finetune')


class Measured(NamedTuple):
    """What was measured for one row.

    Attributes:
        row: The row.
        values: For each of :data:`MEASURES` the value of each seed, percent.
        runs: The results of all stages, by seed.
    """

    row: Row
    values: dict[str, dict[int, float]]
    runs: dict[int, dict[str, Any]]


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
        Plain values, differences in percent: mean, standard error, by seed, and in words whether the paper's order is
        there. None if the rows have no common seed.
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


def write_table(number: int, rows: Sequence[Measured], protocol: Protocol, command: str, out: Path) -> None:
    """Write ``tableN.json`` and ``tableN.md``.

    Args:
        number: The paper's number of the table.
        rows: What was measured.
        protocol: At which scale.
        command: The command line that made it.
        out: The folder.
    """
    by_name = {entry.row.name: entry for entry in rows}
    orders = {
        name: [compare_rows(by_name[worse], by_name[better], name) for worse, better in TABLES[number].orders]
        for name in MEASURES
    }
    content = {
        'table': number,
        'title': TABLES[number].title,
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
    header = 'row | paper: linear | fine-tuned | ours: linear | kNN | fine-tuned | seeds | epochs x images | seconds | commit'
    lines = [
        f'# Table {content["table"]}: {content["title"]}\n',
        f'Scaled: {content["scaled"]}.\n',
        f'Command: `{content["command"]}`\n',
        'Percent of test images; ours: mean ± standard deviation over seeds.\n',
        *_table(header.split(' | '), [_cells(entry) for entry in rows]),
        '',
        *[f'* {entry.row.name}: {entry.row.note}.' for entry in rows if entry.row.note],
    ]
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
    return [f'| {" | ".join(cells)} |' for cells in (header, ['---'] * len(header), *rows)]


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
