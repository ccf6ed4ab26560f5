"""The loss curve of a run."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from .canvas import save_figure


def read_losses(path: str | Path) -> tuple[list[int], list[float]]:
    """Read the loss from mmengine's log ``vis_data/scalars.json``, one JSON object a line.

    Args:
        path: The log.

    Returns:
        Iterations and losses. Where a resumed run repeats an iteration, the later entry counts.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no loss.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'there is no log {path}; mmengine writes <work_dir>/<time>/vis_data/scalars.json')
    entries = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    losses = {entry.get('iter', entry.get('step')): entry['loss'] for entry in entries if 'loss' in entry}
    if not losses:
        raise ValueError(
            f'{path} holds no loss: either no step was logged yet (LoggerHook.interval), or it is another log'
        )
    steps = sorted(losses)
    return steps, [losses[step] for step in steps]


def draw_loss_curve(source: str | Path | Sequence[float], path: str | Path) -> Path:
    """Draw a loss over the iterations of a run.

    Args:
        source: mmengine's ``scalars.json`` of the run, or the losses themselves.
        path: Where the PNG goes.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If ``source`` is no file.
        ValueError: If there is no loss in ``source``.
    """
    if isinstance(source, (str, Path)):
        steps, losses = read_losses(source)
    else:
        losses = [float(loss) for loss in source]
        steps = list(range(1, len(losses) + 1))
    if not losses:
        raise ValueError('source holds no losses to draw')
    figure = Figure(figsize=(7, 3.8), dpi=130, layout='constrained')
    axes = figure.subplots()
    colour = '#6a3d9a'
    width = max(1, len(losses) // 40)
    if width > 1:
        smooth = np.convolve(losses, np.ones(width) / width, mode='valid')
        middle = np.convolve(steps, np.ones(width) / width, mode='valid')
        axes.plot(steps, losses, color=colour, alpha=0.3, linewidth=0.9, label='as logged')
        axes.plot(middle, smooth, color=colour, linewidth=2, label=f'mean of {width} entries')
        axes.legend(frameon=False)
    else:
        axes.plot(steps, losses, color=colour, linewidth=2, marker='o', markersize=3)
    axes.set(xlabel='iteration', ylabel='loss (mean squared error)')
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    return save_figure(figure, path)
