"""Curves over the steps of a run: the loss as a PNG, any scalars as SVG."""

from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .figures import save_figure
from .run_log import Series, read_scalars

COLOURS = ('#6a3d9a', '#c2410c', '#0f766e', '#1d4ed8')
_LOG_FROM = 12.0  # greatest over least value, from which the axis is logarithmic


def draw_loss_curve(log: str | Path, path: str | Path) -> Path:
    """Draw the loss over the iterations of a run, from mmengine's ``scalars.json``, as a PNG; return its path.

    Raises:
        FileNotFoundError: If there is no such log.
        ValueError: If there is no loss in it.
    """
    if not Path(log).is_file():
        raise FileNotFoundError(f'there is no log {log}; mmengine writes <work_dir>/<time>/vis_data/scalars.json')
    scalars = read_scalars(log, [])
    if 'loss' not in scalars:
        raise ValueError(f'{log} contains no loss: either no step was logged yet (LoggerHook.interval), or another log')
    figure = Figure(figsize=(7, 3.8), dpi=130, layout='constrained')
    plot_curves(figure.subplots(), smoothed(scalars['loss']), 'iteration', 'loss (mean squared error)')
    return save_figure(figure, path)


def smoothed(series: Series) -> dict[str, Series]:
    """Return a series by the name of its curve, with its moving average if it is long."""
    width = len(series[0]) // 40
    if width < 2:
        return {'as logged': series}
    mean = tuple(np.convolve(part, np.ones(width) / width, mode='valid').tolist() for part in series)
    return {'as logged': series, f'mean of {width} entries': mean}


def curves_svg(curves: Mapping[str, Series], x_label: str, y_label: str, may_be_log: bool = False) -> str:
    """Draw curves as an SVG document. All text is drawn as outlines, so that no name becomes markup."""
    with matplotlib.rc_context({'svg.fonttype': 'path'}):
        figure = Figure(figsize=(6, 3.4), layout='constrained')
        plot_curves(figure.subplots(), curves, x_label, y_label, may_be_log)
        text = StringIO()
        figure.savefig(text, format='svg', metadata={'Date': None})
    return text.getvalue()


def plot_curves(axes: Axes, curves: Mapping[str, Series], x_label: str, y_label: str, may_be_log: bool = False) -> None:
    """Plot curves by name; the axis may be logarithmic for positive values of very different size."""
    handles = []
    for i, (steps, values) in enumerate(curves.values()):
        style = dict(marker='o', markersize=3) if len(steps) < 80 else {}
        below = dict(alpha=0.3, linewidth=0.9) if i == 0 and 'as logged' in curves and len(curves) > 1 else {}
        handles += axes.plot(steps, values, color=COLOURS[i % len(COLOURS)], **style, **below)
    everything = [value for _, values in curves.values() for value in values]
    if may_be_log and min(everything) > 0 and max(everything) / min(everything) >= _LOG_FROM:
        axes.set_yscale('log')
    if len(curves) > 1:
        for name in axes.legend(handles, list(curves), frameon=False).get_texts():
            name.set_parse_math(False)  # names of a log may contain dollar signs
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
