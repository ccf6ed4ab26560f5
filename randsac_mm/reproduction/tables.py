"""Tables for people and programs: the paper's values beside ours, and whether the paper's order is there."""

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.fileio import load
from scipy import stats

from randsac_mm.files import atomic_write, write_json

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


class Measured(NamedTuple):
    """What was measured for one row."""

    row: Row
    values: dict[str, dict[int, float]]  # by measure, then by seed, percent
    runs: dict[int, dict[str, Any]]  # the results of all stages, by seed


def load_tables(path: Path) -> dict[int, Table]:
    """Read what the paper reports, ``configs/paper_tables.yml``, by the paper's numbers of the tables."""
    return {
        number: Table(table['title'], [Row(*row) for row in table['rows']], [tuple(pair) for pair in table['orders']])
        for number, table in load(path).items()
    }


def measure(row: Row, jobs: Sequence[Job]) -> Measured:
    """Collect the results of a row's runs, one of each seed, as far as they are done."""
    found = Measured(row, {name: {} for name in MEASURES}, {})
    for job in jobs:
        results = {stage: job.result(stage) for stage in STAGES}
        done = {stage: result for stage, result in results.items() if result is not None}
        if done:
            found.runs[job.seed] = done
        probe = done.get('probe', {})
        values = {
            'linear': probe.get('linear'),
            'knn': probe.get('knn'),
            # A classifier trained from scratch is its own fine-tuning.
            'finetune': done.get('finetune', probe).get('accuracy'),
        }
        for name, value in values.items():
            if value is not None:
                found.values[name][job.seed] = value
    return found


def compare_rows(worse: Measured, better: Measured, name: str) -> dict[str, Any] | None:
    """Compare two rows of the paper, of which it finds one better, seed by seed in one of :data:`MEASURES`.

    A difference counts if it has one sign for all of at least three seeds and a paired t-test rejects chance at the
    level of 5 %. With many claims some will pass by chance all the same.

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
        'by_seed': {seed: round(value, 2) for seed, value in zip(seeds, differences, strict=True)},
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
        'rows': [
            {
                'name': row.name,
                'recipe': row.recipe,
                'note': row.note,
                'paper': {'linear': row.linear, 'finetune': row.finetune},
                'ours': {name: seeds for name, seeds in values.items() if seeds},
                'runs': runs,
            }
            for row, values, runs in rows
        ],
        'orders': {name: [order for order in found if order] for name, found in orders.items()},
    }
    write_json(out / f'table{number}.json', content, ensure_ascii=False)
    with atomic_write(out / f'table{number}.md') as path:
        path.write_text(_markdown(rows, content))


def _markdown(rows: Sequence[Measured], content: dict[str, Any]) -> str:
    lines = [
        f'# Table {content["table"]}: {content["title"]}\n',
        f'Scaled: {content["scaled"]}.\n',
        f'Command: `{content["command"]}`\n',
        'Percent of test images; ours: mean ± standard deviation over seeds.\n',
        '| row | paper: linear | fine-tuned | ours: linear | kNN | fine-tuned | seeds | epochs x images '
        '| multiply-adds an image | ms an image | commit |',
        '|' + '---|' * 11,
        *[_row_line(entry) for entry in rows],
        '',
        *[f'* {entry.row.name}: {entry.row.note}.' for entry in rows if entry.row.note],
    ]
    claims = [_claim_line(name, order) for name, orders in content['orders'].items() for order in orders]
    if claims:
        lines += [
            "\n## Is the paper's order there?\n",
            '| claim of the paper | by | difference ± standard error | by seed | as in the paper |',
            '|' + '---|' * 5,
            *claims,
            '\n"Yes" or "no" only where three seeds or more agree in sign and a paired t-test gives p < 0.05.',
        ]
    stages = [stage for entry in rows for run in entry.runs.values() for stage in run.values()]
    hardware: dict[str, None] = {}  # each once, in order
    for stage in stages:
        origin = stage['origin']
        cores = f'{origin["hardware"]}, {stage["threads"]} of {origin["cores"]} cores'
        hardware[', '.join([*origin['gpus'][:1], cores])] = None
    if hardware:
        lines += [
            f'\nHardware: {"; ".join(hardware)}. Of one image in pre-training: multiply-adds of the forward pass, '
            'ms of the whole step, other runs beside it.'
        ]
    return '\n'.join(lines).rstrip() + '\n'


def _row_line(entry: Measured) -> str:
    runs = list(entry.runs.values())
    trained = [run['pretrain'] for run in runs if 'pretrain' in run]
    seconds = [run['seconds'] / run['epochs'] / run['images'] for run in trained]
    cells = [
        entry.row.name,
        *['-' if value is None else f'{value:g}' for value in (entry.row.linear, entry.row.finetune)],
        *[_spread(list(entry.values[name].values())) for name in MEASURES],
        ', '.join(map(str, entry.runs)) or 'not run',
        _each(f'{run["epochs"]} x {run["images"]:,}' for run in trained),
        _each(f'{run["multiply_adds"] / 1e6:.2f} M' for run in trained if 'multiply_adds' in run),
        f'{statistics.mean(seconds) * 1e3:.3g}' if trained else '-',
        _each(stage['origin']['commit'] for run in runs for stage in run.values()),
    ]
    return f'| {" | ".join(cells)} |'


def _each(values: Iterable[str]) -> str:
    """Name each value once."""
    return ' / '.join(dict.fromkeys(values)) or '-'


def _spread(values: list[float]) -> str:
    if not values:
        return '-'
    mean = f'{statistics.mean(values):.1f}'
    return f'{mean} ± {statistics.stdev(values):.1f}' if len(values) > 1 else mean


def _claim_line(name: str, order: dict[str, Any]) -> str:
    error = '' if order['standard_error'] is None else f' ± {order["standard_error"]:.2f}'
    seeds = ', '.join(f'{value:+.2f}' for value in order['by_seed'].values())
    claim = f'{order["worse"]} < {order["better"]} | {name} | {order["difference"]:+.2f}{error}'
    return f'| {claim} | {seeds} | {order["as_in_the_paper"]} |'
