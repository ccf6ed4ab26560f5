"""Curves over the steps of a run."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .figures import save_figure
from .run_log import Series, read_scalars

COLOURS = ('#6a3d9a', '#c2410c', '#0f766e', '#1d4ed8')


def draw_loss_curve(log: str | Path, path: str | Path) -> Path:
    """Draw the loss in mmengine's ``scalars.json`` over the iterations, as a PNG, or raise a ValueError without one."""
    scalars = read_scalars(log, [])
    if 'loss' not in scalars:
        raise ValueError(f'{log} contains no loss: no step was logged yet (LoggerHook.interval), or it is another log')
    return save_figure(plot_curves(smoothed(scalars['loss']), 'iteration', 'loss (mean squared error)'), path)


def smoothed(series: Series) -> dict[str, Series]:
    """Return a series by the name of its curve, with its moving average if it is long."""
    width = len(series) // 40
    if width < 2:
        return {'as logged': series}
    steps, values = (np.convolve(part, np.ones(width) / width, 'valid') for part in (list(series), [*series.values()]))
    return {'as logged': series, f'mean of {width} entries': dict(zip(steps, values, strict=True))}


def plot_curves(curves: Mapping[str, Series], x_label: str, y_label: str) -> Figure:
    """Plot curves by name."""
    figure = Figure(figsize=(7, 3.8), dpi=130, layout='constrained')
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    for i, series in enumerate(curves.values()):
        marker = 'o' if len(series) < 80 else ''
        alpha = 0.3 if i == 0 and 'as logged' in curves and len(curves) > 1 else 1
        axes.plot(list(series), list(series.values()), color=COLOURS[i], marker=marker, markersize=3, alpha=alpha)
    if len(curves) > 1:
        for name in axes.legend(axes.lines, list(curves), frameon=False).get_texts():
            name.set_parse_math(False)  # names of a log may contain dollar signs
    return figure
