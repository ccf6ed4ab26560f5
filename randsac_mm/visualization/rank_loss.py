"""Which segments are hard: the loss by rank.

n images, S serializations of each, N tokens.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from randsac_mm.models import RandSAC

from .curves import COLOURS, plot_curves
from .figures import save_figure
from .inputs import evaluating
from .serialization_pictures import serialize

SERIALIZATIONS = 2  # of each image
_BATCH = 64  # images in a step


def loss_by_rank(model: RandSAC, inputs: Tensor, seed: int = 0) -> dict:
    """Measure how well every segment of normalised images (n, C, H, W) is predicted, in two serializations.

    Returns:
        Plain values. Mean squared errors ``by_rank`` from 1, since rank 0 is given, and ``overall``, the model's loss
        on these serializations. Each has lists: ``rank``, ``mse``, its ``standard_error`` (tokens of one image are one
        observation; None for fewer than two images), number of ``tokens`` and of ``images``. ``of_zero`` is the error
        of predicting 0 everywhere: the mean colour, or with ``norm_pix`` the mean of each patch.
    """
    grid, device = model.backbone.grid(*inputs.shape[2:]), next(model.parameters()).device
    ranks, _ = serialize(model.data_preprocessor.serialization, SERIALIZATIONS * len(inputs), grid, seed)
    ranks = ranks.unflatten(0, (SERIALIZATIONS, len(inputs)))  # (S, n, N)
    errors, zeros = torch.empty(ranks.shape), torch.empty(ranks.shape)
    with evaluating(model):
        for some in torch.arange(len(inputs)).split(_BATCH):
            images = inputs[some].to(device)
            target = model.head.target(images)
            zeros[:, some] = target.square().mean(-1).cpu()
            for s in range(SERIALIZATIONS):
                pred = model.reconstruct(images, ranks[s, some].to(device)).pred.float()
                errors[s, some] = (pred - target).square().mean(-1).cpu()
    predicted = ranks > 0
    return {
        'by_rank': _tally(errors, ranks, predicted),
        'overall': _tally(errors, torch.zeros_like(ranks), predicted),
        'of_zero': zeros[predicted].double().mean().item(),
        'serializations': SERIALIZATIONS,
        'norm_pix': model.head.norm_pix,
    }


def _tally(errors: Tensor, groups: Tensor, predicted: Tensor) -> dict[str, list]:
    """Average the errors of predicted tokens in groups (ranks, or 0 for all); all tensors are (S, n, N)."""
    found = groups[predicted].unique()
    tokens, sums = torch.zeros(2, len(found), errors.shape[1], dtype=torch.float64)
    for i, group in enumerate(found):
        of_group = (groups == group) & predicted
        tokens[i], sums[i] = of_group.sum((0, 2)), (errors.double() * of_group).sum((0, 2))
    total, images = tokens.sum(1), (tokens > 0).sum(1)
    mean = sums.sum(1) / total
    # Images are independent, tokens of one image are not: the error of a ratio of two sums over images.
    spread = (sums - mean[:, None] * tokens).square().sum(1)
    error = (spread * images / (images - 1)).sqrt() / total
    return {
        'rank': found.tolist(),
        'mse': mean.tolist(),
        'standard_error': [e if n > 1 else None for e, n in zip(error.tolist(), images.tolist(), strict=True)],
        'tokens': total.long().tolist(),
        'images': images.tolist(),
    }


def with_error(tally: dict[str, list], i: int = 0) -> str:
    """Return mean and standard error of group ``i`` as text."""
    error = tally['standard_error'][i]
    return f'{tally["mse"][i]:.4f}' + ('' if error is None else f' \N{PLUS-MINUS SIGN} {error:.4f}')


def draw_loss_by_rank(model: RandSAC, inputs: Tensor, path: str | Path, seed: int = 0) -> dict:
    """Draw, as a PNG, and return what :func:`loss_by_rank` measures, with standard errors and a ``note``."""
    result = loss_by_rank(model, inputs, seed)
    tally, overall = result['by_rank'], result['overall']
    space = 'patches' if result['norm_pix'] else 'images'
    curve = {'mean squared error': dict(zip(tally['rank'], tally['mse'], strict=True))}
    figure = plot_curves(curve, 'rank of the segment (0 is given)', f'mean squared error\nof normalised {space}')
    (axes,) = figure.axes
    spread = np.array(tally['standard_error'], float)  # None becomes NaN, which is not drawn
    axes.errorbar(tally['rank'], tally['mse'], spread, fmt='none', ecolor=COLOURS[0], capsize=2.5)
    axes.axhline(overall['mse'][0], color='#777777', linewidth=1, linestyle='--', label='mean of all predicted tokens')
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False)
    result['note'] = (
        f'{len(inputs)} images, {SERIALIZATIONS} serializations of each; loss {with_error(overall)} (standard error); '
        f'predicting 0: {result["of_zero"]:.4f}'
    )
    axes.set_title(result['note'], fontsize=9)
    save_figure(figure, path, result['note'])
    return result
