"""Which segments are hard: the loss by rank.

n images, S serializations of each, N tokens.
"""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from randsac_mm.models import RandSAC

from .curves import COLOURS
from .figures import save_figure
from .inputs import evaluating
from .serialization_pictures import serialize


def loss_by_rank(model: RandSAC, inputs: Tensor, serializations: int = 2, seed: int = 0, batch_size: int = 64) -> dict:
    """Measure how well every segment is predicted, in serializations of the model's own kind.

    Args:
        model: The model, run in evaluation mode.
        inputs: Normalised images (n, C, H, W).
        serializations: Number S of serializations to draw of each image.
        seed: Seed of the serializations.
        batch_size: Images in a step.

    Returns:
        Plain values. Mean squared errors ``by_rank`` from 1, since rank 0 is given, and ``overall``, the model's loss
        on these serializations. Each has lists: ``rank``, ``mse``, its ``standard_error`` (tokens of one image are one
        observation; None for fewer than two images), number of ``tokens`` and of ``images``. ``of_zero`` is the error
        of predicting 0 everywhere: the mean colour, or with ``norm_pix`` the mean of each patch.

    Raises:
        ValueError: If ``serializations``, ``batch_size`` or the number of images is below 1.
    """
    for name, value in (('serializations', serializations), ('batch_size', batch_size), ('images', len(inputs))):
        if value < 1:
            raise ValueError(f'{name}={value} must be at least 1')
    grid, device = model.backbone.grid(*inputs.shape[2:]), next(model.parameters()).device
    ranks, _ = serialize(model.data_preprocessor.serialization, serializations * len(inputs), grid, seed)
    ranks = ranks.unflatten(0, (serializations, len(inputs)))  # (S, n, N)
    errors, zeros = torch.empty(ranks.shape), torch.empty(ranks.shape)
    with evaluating(model):
        for some in torch.arange(len(inputs)).split(batch_size):
            images = inputs[some.to(inputs.device)].to(device)
            target = model.head.target(images)
            zeros[:, some] = target.square().mean(-1).cpu()
            for s in range(serializations):
                pred = model.reconstruct(images, ranks[s, some].to(device)).pred.float()
                errors[s, some] = (pred - target).square().mean(-1).cpu()
    predicted = ranks > 0
    return {
        'by_rank': _tally(errors, ranks, predicted),
        'overall': _tally(errors, torch.zeros_like(ranks), predicted),
        'of_zero': zeros[predicted].double().mean().item(),
        'serializations': serializations,
        'norm_pix': model.head.norm_pix,
    }


def _tally(errors: Tensor, groups: Tensor, predicted: Tensor) -> dict[str, list]:
    """Average the errors of predicted tokens in groups (ranks, or 0 for all); all tensors are (S, n, N)."""
    count = int(groups[predicted].max()) + 1
    keys = torch.where(predicted, groups, count).transpose(0, 1).flatten(1)  # (n, S * N); the last group is dropped
    sums = torch.zeros(len(keys), count + 1, dtype=torch.float64)
    tokens = torch.zeros_like(sums).scatter_add_(1, keys, torch.ones_like(keys, dtype=torch.float64))
    sums.scatter_add_(1, keys, errors.double().transpose(0, 1).flatten(1))
    found = tokens[:, :count].sum(0).nonzero().flatten()
    sums, tokens = sums[:, found], tokens[:, found]
    total, images = tokens.sum(0), (tokens > 0).sum(0)
    mean = sums.sum(0) / total
    # Images are independent, tokens of one image are not: the error of a ratio of two sums over images.
    spread = (sums - mean * tokens).square().sum(0)
    error = (spread * images / (images - 1).clamp(min=1)).sqrt() / total
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
    """Draw, and return, what :func:`loss_by_rank` measures, with standard errors, as a PNG."""
    result = loss_by_rank(model, inputs, seed=seed)
    tally, overall = result['by_rank'], result['overall']
    figure = Figure(figsize=(7, 3.8), dpi=130, layout='constrained')
    axes = figure.subplots()
    spread = np.array(tally['standard_error'], float)  # None becomes NaN, which is not drawn
    axes.errorbar(tally['rank'], tally['mse'], spread, color=COLOURS[0], marker='o', markersize=3.5, capsize=2.5)
    axes.axhline(overall['mse'][0], color='#777777', linewidth=1, linestyle='--', label='mean of all predicted tokens')
    axes.xaxis.get_major_locator().set_params(integer=True)
    space = 'patches' if result['norm_pix'] else 'images'
    axes.set(xlabel='rank of the segment (0 is given)', ylabel=f'mean squared error\nof normalised {space}')
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False)
    note = (
        f'{overall["images"][0]} images, {result["serializations"]} serialization(s) of each; bars: standard error; '
        f'predicting 0: {result["of_zero"]:.3g}'
    )
    axes.set_title(note, fontsize=9)
    save_figure(figure, path, note)
    return result
