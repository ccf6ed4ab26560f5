"""Curves as inline SVG, whose colours follow the page: light or dark."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.ticker import LogLocator, MaxNLocator

from .html import Html, element

_WIDTH, _HEIGHT = 480, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 46  # around the axes
_MOST_POINTS = 500  # of a curve; more are averaged in groups
_LOG_FROM = 12.0  # greatest over least value, from which the axis is logarithmic


class Curve(NamedTuple):
    """Hold a curve.

    Attributes:
        name: What the legend says.
        steps: Where, ascending.
        values: What, as many.
        dots: Whether single points are marked.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    dots: bool = False


def line_chart(title: str, x_label: str, y_label: str, curves: Sequence[Curve], may_be_log: bool = False) -> Html:
    """Draw curves over common axes.

    Values that are not finite are left out; curves of very many points are averaged in groups.

    Args:
        title: What is shown, for those who cannot see it too.
        x_label: Below the horizontal axis.
        y_label: Beside the vertical axis.
        curves: At least one.
        may_be_log: Whether the vertical axis becomes logarithmic for positive values of very different size.

    Returns:
        A figure with a caption.

    Raises:
        ValueError: If no curve has a finite value.
    """
    kept = [_thin(curve) for curve in curves]
    kept = [curve for curve in kept if curve.steps]
    if not kept:
        raise ValueError(f'{title}: there is no finite value to draw')
    values = [value for curve in kept for value in curve.values]
    steps = [step for curve in kept for step in curve.steps]
    log = may_be_log and min(values) > 0 and max(values) / min(values) >= _LOG_FROM
    y_ticks, y_low, y_high = _ticks(min(values), max(values), log)
    x_ticks, _, _ = _ticks(min(steps), max(steps), False)
    x_low, x_high = min(steps), max(steps)
    x_ticks = [tick for tick in x_ticks if x_low <= tick <= x_high] or [x_low]

    def x_of(step: float) -> float:
        return _LEFT + (step - x_low) / ((x_high - x_low) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y_of(value: float) -> float:
        low, high, value = (math.log(v) if log else v for v in (y_low, y_high, value))
        return _HEIGHT - _BOTTOM - (value - low) / ((high - low) or 1) * (_HEIGHT - _TOP - _BOTTOM)

    parts = []
    for tick in y_ticks:
        y = f'{y_of(tick):.1f}'
        parts.append(element('line', x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_='grid'))
        parts.append(element('text', _number(tick), x=_LEFT - 6, y=y, dy='.35em', text_anchor='end'))
    for tick in x_ticks:
        place = f'{x_of(tick):.1f}'
        parts.append(element('text', _number(tick), x=place, y=_HEIGHT - _BOTTOM + 18, text_anchor='middle'))
    middle = (_WIDTH + _LEFT - _RIGHT) / 2
    parts.append(element('text', x_label, x=middle, y=_HEIGHT - 8, text_anchor='middle'))
    for i, curve in enumerate(kept):
        points = ' '.join(f'{x_of(s):.1f},{y_of(v):.1f}' for s, v in zip(curve.steps, curve.values, strict=True))
        parts.append(element('polyline', points=points, class_=f'curve c{i}'))
        if curve.dots or len(curve.steps) == 1:
            parts += [element('circle', cx=x, cy=y, r=3, class_=f'dot c{i}') for x, y in _pairs(points)]
    drawn = element(
        'svg',
        element('title', f'{title}: {_in_words(curves)}'),
        *parts,
        viewBox=f'0 0 {_WIDTH} {_HEIGHT}',
        role='img',
    )
    scale = ', logarithmic' if log else ''
    legend = [element('span', curve.name, class_=f'key k{i}') for i, curve in enumerate(kept)] if len(kept) > 1 else []
    caption = element('figcaption', element('strong', title), f' ({y_label}{scale}) ', *legend)
    return element('figure', caption, drawn, class_='chart')


def _pairs(points: str) -> list[list[str]]:
    return [point.split(',') for point in points.split()]


def _thin(curve: Curve) -> Curve:
    """Leave out what is not finite and average neighbours, so that at most ``_MOST_POINTS`` are left."""
    pairs = [(s, v) for s, v in zip(curve.steps, curve.values, strict=True) if math.isfinite(v)]
    group = math.ceil(len(pairs) / _MOST_POINTS) or 1
    groups = [pairs[i : i + group] for i in range(0, len(pairs), group)]
    steps = [sum(s for s, _ in g) / len(g) for g in groups]
    return curve._replace(steps=steps, values=[sum(v for _, v in g) / len(g) for g in groups])


def _ticks(low: float, high: float, log: bool) -> tuple[list[float], float, float]:
    """Choose round numbers for an axis, and where it begins and ends."""
    if log:
        for subs in ((1.0,), (1.0, 2.0, 5.0)):
            ticks = [float(t) for t in LogLocator(subs=subs, numticks=8).tick_values(low, high)]
            inside = [tick for tick in ticks if low <= tick <= high]
            if len(inside) >= 3:
                break
        return inside or [low], low, high
    if low == high:
        low, high = low - (abs(low) * 0.1 or 1), high + (abs(high) * 0.1 or 1)
    ticks = [float(t) for t in MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)]
    return ticks, min(ticks[0], low), max(ticks[-1], high)


def _number(value: float) -> str:
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f'{value:.2e}'.split('e')
        return f'{float(mantissa):g}e{int(exponent)}'
    return f'{value:,.10g}' if abs(value) >= 1 else f'{value:.4g}'


def _in_words(curves: Sequence[Curve]) -> str:
    """Say what a curve shows, for a screen reader."""
    finite = [(c.name, [v for v in c.values if math.isfinite(v)]) for c in curves]
    return '; '.join(
        f'{name} from {v[0]:.4g} to {v[-1]:.4g}, least {min(v):.4g}, greatest {max(v):.4g}' for name, v in finite if v
    )
