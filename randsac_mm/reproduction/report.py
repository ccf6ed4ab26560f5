"""Tables for people and programs: the paper's values beside ours, and whether the paper's order is there."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .paper import TABLES, Order, Row, Table
from .protocols import Protocol
from .stages import Job

MEASURES = ('linear', 'knn', 'finetune')
# Student's t, two-sided 5 %, for 3, 4, ... 10 seeds; that of 10 serves for more.
_QUANTILES = (4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


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
    """Collect what is known about a row.

    Args:
        row: The row.
        jobs: Its runs, one of each seed.

    Returns:
        The values of all seeds whose stage is done.
    """
    values: dict[str, dict[int, float]] = {name: {} for name in MEASURES}
    runs = {}
    for job in jobs:
        done = {stage: job.result(stage) for stage in ('pretrain', 'probe', 'finetune')}
        done = {stage: result for stage, result in done.items() if result is not None}
        if not done:
            continue
        runs[job.seed] = done
        for name in ('linear', 'knn'):
            if 'probe' in done:
                values[name][job.seed] = done['probe'][name]
        # A classifier trained from scratch is its own fine-tuning.
        accuracy = done.get('finetune', done.get('probe', {})).get('accuracy')
        if accuracy is not None:
            values['finetune'][job.seed] = accuracy
    return Measured(row, values, runs)


class Verdict(NamedTuple):
    """What our runs say about one claim of the paper.

    Attributes:
        order: The claim.
        differences: Better minus worse, percent, by seed.
    """

    order: Order
    differences: dict[int, float]

    @property
    def mean(self) -> float:
        """Give the mean difference, percent."""
        return statistics.mean(self.differences.values())

    @property
    def error(self) -> float:
        """Give the standard error of the mean over seeds, percent; NaN for a single seed."""
        count = len(self.differences)
        return statistics.stdev(self.differences.values()) / math.sqrt(count) if count > 1 else math.nan

    @property
    def words(self) -> str:
        """Say whether the claim is seen.

        A difference counts if it has one sign for all of at least three seeds and a paired t-test rejects chance at the
        level of 5 %. With many claims some will pass by chance all the same.
        """
        signs, count = {math.copysign(1, value) for value in self.differences.values()}, len(self.differences)
        if count < 3:
            return 'too few seeds'
        if len(signs) > 1 or abs(self.mean) <= _QUANTILES[min(count, 10) - 3] * self.error:
            return 'cannot be told'
        return 'yes' if self.mean > 0 else 'no: the other way round'


def judge_orders(orders: Sequence[Order], rows: Sequence[Measured], measure_name: str = 'linear') -> list[Verdict]:
    """Compare rows as the paper does, seed by seed.

    Args:
        orders: The paper's claims.
        rows: What was measured.
        measure_name: One of :data:`MEASURES`.

    Returns:
        A verdict on each claim whose two rows share a seed.
    """
    values = {entry.row.name: entry.values[measure_name] for entry in rows}
    verdicts = []
    for order in orders:
        worse, better = values.get(order.worse, {}), values.get(order.better, {})
        seeds = sorted(worse.keys() & better.keys())
        if seeds:
            verdicts.append(Verdict(order, {seed: better[seed] - worse[seed] for seed in seeds}))
    return verdicts


def write_table(number: int, rows: Sequence[Measured], protocol: Protocol, command: str, out: Path) -> None:
    """Write ``tableN.json`` and ``tableN.md``.

    Args:
        number: The paper's number of the table.
        rows: What was measured.
        protocol: At which scale.
        command: The command line that made it.
        out: The folder.
    """
    table = TABLES[number]
    out.mkdir(parents=True, exist_ok=True)
    content = {
        'table': number,
        'title': table.title,
        'command': command,
        'scaled': protocol.what,
        'rows': [_row_json(entry) for entry in rows],
        'orders': {
            name: [
                {
                    'worse': verdict.order.worse,
                    'better': verdict.order.better,
                    'difference': round(verdict.mean, 2),
                    'standard_error': None if math.isnan(verdict.error) else round(verdict.error, 2),
                    'by_seed': {str(seed): round(value, 2) for seed, value in verdict.differences.items()},
                    'as_in_the_paper': verdict.words,
                }
                for verdict in judge_orders(table.orders, rows, name)
            ]
            for name in MEASURES
        },
    }
    for name, text in (
        (f'table{number}.json', json.dumps(content, indent=2, ensure_ascii=False) + '\n'),
        (f'table{number}.md', markdown(number, table, rows, content)),
    ):
        partial = out / f'{name}.partial'
        partial.write_text(text)
        partial.replace(out / name)


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


def spread(values: dict[int, float]) -> str:
    """Write mean and standard deviation over seeds.

    Example:
        >>> spread({0: 80.0, 1: 82.0, 2: 81.0}), spread({0: 80.0}), spread({})
        ('81.0 ± 1.0', '80.0', '-')
    """
    if not values:
        return '-'
    mean = f'{statistics.mean(values.values()):.1f}'
    return f'{mean} ± {statistics.stdev(values.values()):.1f}' if len(values) > 1 else mean


def _paper(value: float | None) -> str:
    return '-' if value is None else f'{value:g}'


def markdown(number: int, table: Table, rows: Sequence[Measured], content: dict[str, Any]) -> str:
    """Write a table for people.

    Args:
        number: Its number in the paper.
        table: What the paper says.
        rows: What was measured.
        content: The same as plain values, see :func:`write_table`.

    Returns:
        Markdown.
    """
    lines = [
        f'# Table {number}: {table.title}',
        '',
        f'Scaled: {content["scaled"]}.',
        '',
        f'Command: `{content["command"]}`',
        '',
        'Percent of test images; ours: mean ± standard deviation over seeds.',
        '',
        '| row | paper: linear | fine-tuned | ours: linear | kNN | fine-tuned | seeds '
        '| epochs x images | seconds | commit |',
        '|---|---|---|---|---|---|---|---|---|---|',
    ]
    for entry in rows:
        runs = list(entry.runs.values())
        trained = [run['pretrain'] for run in runs if 'pretrain' in run]
        values = entry.values
        cells = [
            entry.row.name,
            _paper(entry.row.linear),
            _paper(entry.row.finetune),
            spread(values['linear']),
            spread(values['knn']),
            spread(values['finetune']),
            ', '.join(map(str, entry.runs)) or 'not run',
            ' / '.join(dict.fromkeys(f'{run["epochs"]} x {run["images"]:,}' for run in trained)) or '-',
            f'{statistics.mean(run["seconds"] for run in trained):.0f}' if trained else '-',
            ' / '.join(dict.fromkeys(stage['origin']['commit'] for run in runs for stage in run.values())) or '-',
        ]
        lines.append(f'| {" | ".join(cells)} |')
    notes = [f'* {entry.row.name}: {entry.row.note}.' for entry in rows if entry.row.note]
    lines += ['', *notes] if notes else []
    verdicts = {name: judge_orders(table.orders, rows, name) for name in MEASURES}
    if any(verdicts.values()):
        lines += [
            '',
            "## Is the paper's order there?",
            '',
            '| claim of the paper | by | difference ± standard error | by seed | as in the paper |',
            '|---|---|---|---|---|',
        ]
        for name, found in verdicts.items():
            for verdict in found:
                error = '' if math.isnan(verdict.error) else f' ± {verdict.error:.2f}'
                seeds = ', '.join(f'{value:+.2f}' for value in verdict.differences.values())
                claim = f'{verdict.order.worse} < {verdict.order.better}'
                lines.append(f'| {claim} | {name} | {verdict.mean:+.2f}{error} | {seeds} | {verdict.words} |')
        lines += [
            '',
            '"Yes" or "no" only where three seeds or more agree in sign and a paired t-test gives p < 0.05.',
        ]
    hardware = dict.fromkeys(
        ', '.join(
            [
                *stage['origin']['gpus'][:1],
                f'{stage["origin"]["hardware"]}, {stage["threads"]} of {stage["origin"]["cores"]} cores',
            ]
        )
        for entry in rows
        for run in entry.runs.values()
        for stage in run.values()
    )
    if hardware:
        lines += ['', f'Hardware: {"; ".join(hardware)}. Seconds: of one pre-training, other runs beside it.']
    return '\n'.join(lines) + '\n'
