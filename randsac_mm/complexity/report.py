"""Figures as text for people."""

from randsac_mm.models import RandSAC, TwoStreamRandSAC

from .count import Cost, complexity
from .published import PAPER, TWO_STREAM_NOTE, compare_with_paper, find_published, two_stream_depths


def report(model: RandSAC, measured: dict[str, int] | None = None) -> str:
    """Write parameters and multiply-adds of a model as a table, and the paper's beside them where it has such a model.

    Args:
        model: The model.
        measured: Result of :func:`randsac_mm.complexity.measure`, for one more column.

    Returns:
        Several lines of text.
    """
    costs = complexity(model)
    height, width = model.backbone.img_size
    rows, columns = model.backbone.patch_resolution
    parts = [_costs_table(costs, measured, isinstance(model, TwoStreamRandSAC))]
    parts.insert(0, f'One image of {height} x {width} pixels, {rows} x {columns} = {rows * columns} tokens')
    name = find_published(model)
    if name is not None:
        parts.append(_paper_table(name, compare_with_paper(model)))
        if isinstance(model, TwoStreamRandSAC):
            parts += [_depths_table(), TWO_STREAM_NOTE]
    return '\n\n'.join(parts)


def _costs_table(costs: dict[str, Cost], measured: dict[str, int] | None, two_stream: bool) -> str:
    names = {'encoder': 'content stream', 'decoder': 'query stream (shared weights)'} if two_stream else {}
    lines = [
        f'{"":<30}{"parameters":>14}{"multiply-adds":>18}{"all tokens":>18}{"measured":>18}'[: 98 if measured else 80]
    ]
    lines.append(f'{"":<30}{"":>14}{"as executed":>18}{"as in the paper":>18}')
    if measured and two_stream:  # both streams run through the same modules, so they are measured together
        measured = {'head': measured['head'], 'total': measured['total']}
    for part, cost in costs.items():
        if part == 'skip' and not cost.parameters:
            continue
        line = f'{names.get(part, part):<30}{cost.parameters:>14,}{cost.executed:>18,}{cost.all_tokens:>18,}'
        lines.append(line + (f'{measured[part]:>18,}' if measured and part in measured else ''))
    return '\n'.join(lines)


def _paper_table(name: str, rows: dict[str, tuple[float, float]]) -> str:
    lines = [f'{name} in Tables 10 and 11 (parameters: layers only, rounded as the paper prints them)']
    lines.append(f'{"":<44}{"ours":>18}{"paper":>18}{"difference":>12}')
    for what, (ours, paper) in rows.items():
        lines.append(f'{what:<44}{ours:>18,.0f}{paper:>18,.0f}{100 * (ours / paper - 1):>+10.2f} %')
    return '\n'.join(lines)


def _depths_table() -> str:
    lines = [f'{"layers that would give the printed figure":<46}' + ''.join(f'{name:>8}' for name in PAPER)]
    for way, depths in two_stream_depths().items():
        lines.append(f'{way:<46}' + ''.join(f'{depth:>8.1f}' for depth in depths.values()))
    return '\n'.join(lines)
