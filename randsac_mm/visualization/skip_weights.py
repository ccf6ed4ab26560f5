"""The learned skip connections: which encoder layers each decoder layer reads."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from .figures import save_figure

_MOST_NUMBERS = 400  # cells, above which numbers would not fit
_WHAT = {
    'before': 'of hidden states that are normalised first, each by a norm of its own: weights compare across rows',
    'after': 'of hidden states as they are; each mixture is normalised afterwards: weights compare within a column, '
    'but hidden states grow with depth',
    'none': 'of hidden states as they are, which grow with depth: small weights of deep layers may count for much',
}


def skip_weights(model: torch.nn.Module) -> np.ndarray:
    """Return the weights W (L_enc, L_dec) of the skip connections, Z^l = sum over k of W[k, l] H^k, float64.

    Raises:
        ValueError: If the model has no skip connections.

    Paper:
        Section 4.2, appendix A.3.
    """
    neck = getattr(model, 'neck', None)
    if neck is None:
        raise ValueError(f'{type(model).__name__} has no skip connections: it has no decoder')
    if getattr(neck, 'skip', None) is None:
        raise ValueError(
            'this model has no skip connections: all its decoder layers read the last encoder layer '
            '(model.neck.skip=False in the config)'
        )
    return neck.skip.weight.detach().double().cpu().numpy()


def draw_skip_weights(model: torch.nn.Module, path: str | Path) -> dict:
    """Draw the weights of the skip connections as a PNG, from blue (negative) over white (0) to red.

    Returns:
        The weights and what they weigh, in plain values.

    Raises:
        ValueError: If the model has no skip connections.
    """
    weights = skip_weights(model)
    rows, columns = weights.shape
    limit = float(np.abs(weights).max()) or 1.0
    figure = Figure(figsize=(2.4 + 0.62 * columns, 1.5 + 0.36 * rows), dpi=130, layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(weights, cmap='RdBu_r', vmin=-limit, vmax=limit, aspect='auto')
    axes.set_xticks(range(columns), range(1, columns + 1))
    axes.set_yticks(range(rows), range(1, rows + 1))
    axes.set(xlabel='decoder layer', ylabel='encoder layer')
    axes.spines[:].set_visible(False)
    for (k, j), value in np.ndenumerate(weights) if weights.size <= _MOST_NUMBERS else ():
        ink = 'white' if abs(value) > 0.6 * limit else 'black'
        axes.text(j, k, f'{value:.2f}', ha='center', va='center', color=ink, fontsize=7.5)
    figure.colorbar(image, ax=axes, label='weight', shrink=0.9)
    note = f'Weights {_WHAT[model.neck.skip.norm]}.'
    save_figure(figure, path, note)
    axis = {'rows': 'encoder layers, from the first', 'columns': 'decoder layers, from the first'}
    return {'weights': weights.tolist(), **axis, 'memory_norm': model.neck.skip.norm, 'note': note}
