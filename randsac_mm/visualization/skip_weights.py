"""The learned skip connections: which encoder layers each decoder layer reads."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from randsac_mm.models import RandSAC

from .figures import save_figure

_WHAT = {
    'before': 'of hidden states that are normalised first, each by a norm of its own: weights compare across rows',
    'after': 'of hidden states as they are; each mixture is normalised afterwards: weights compare within a column, '
    'but hidden states grow with depth',
    'none': 'of hidden states as they are, which grow with depth: small weights of deep layers may count for much',
}


def draw_skip_weights(model: RandSAC, path: str | Path) -> dict:
    """Draw the weights W of the skip connections, Z^l = sum over k of W[k, l] H^k: blue (negative), white (0), red.

    Returns:
        The weights (L_enc, L_dec) and a ``note`` on what they weigh, in plain values.

    Raises:
        ValueError: If the model has no skip connections.

    Paper:
        Section 4.2, appendix A.3.
    """
    skip = getattr(getattr(model, 'neck', None), 'skip', None)
    if skip is None:
        raise ValueError(f'this {type(model).__name__} has no skip connections: no decoder, or model.neck.skip=False')
    weights = skip.weight.detach().double().cpu().numpy()
    rows, columns = weights.shape
    limit = np.abs(weights).max() or 1.0
    figure = Figure(figsize=(2.4 + 0.62 * columns, 1.5 + 0.36 * rows), dpi=130, layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(weights, cmap='RdBu_r', vmin=-limit, vmax=limit, aspect='auto')
    axes.set_xticks(range(columns), range(1, columns + 1))
    axes.set_yticks(range(rows), range(1, rows + 1))
    axes.set(xlabel='decoder layer', ylabel='encoder layer')
    axes.spines[:].set_visible(False)
    for (k, j), value in np.ndenumerate(weights):
        ink = 'white' if abs(value) > 0.6 * limit else 'black'
        axes.text(j, k, f'{value:.2f}', ha='center', va='center', color=ink, fontsize=7.5)
    figure.colorbar(image, ax=axes, label='weight', shrink=0.9)
    note = f'Rows are encoder layers, columns decoder layers. Weights {_WHAT[skip.norm]}.'
    save_figure(figure, path, note)
    return {'weights': weights.tolist(), 'memory_norm': skip.norm, 'note': note}
