"""Pictures of what a model predicts, segment by segment."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import to_rgb
from torch import Tensor

from randsac_mm.models import RandSAC

from .figures import ACCENT, UNKNOWN, Grid, draw_borders, panel_figure, save_figure, show
from .inputs import evaluating, to_pixels
from .serialization_pictures import draw_segments, serialize

_SIDE = 132  # pixels of a panel's longer side
_STEPS = 8  # most panels between serialization and composite
_TARGET_NOTE = (
    'This model predicts patches that are normalised by their own mean and standard deviation (norm_pix). To be shown '
    'in pixels, each predicted patch gets the mean and standard deviation of the TARGET patch: its average colour '
    'and contrast come from the original, only the structure inside is predicted.'
)
_PIXEL_NOTE = 'The model predicts pixels directly; nothing in the predicted patches comes from the original.'
_STEP_NOTE = 'Outlined: predicted from the true pixels of all segments before it. Blank: what comes later.'


def reconstruct(model: RandSAC, inputs: Tensor, rank: Tensor) -> tuple[np.ndarray, list[list[float | None]]]:
    """Predict every segment of normalised images (B, C, H, W) from the true pixels of all earlier ones.

    The model is run in evaluation mode. With ``norm_pix`` predicted patches get mean and standard deviation of the
    target's.

    Returns:
        The first segment's true pixels and the predictions of all others (B, H, W, 3), uint8, RGB, and the mean
        squared error of every rank of each image, None for rank 0.
    """
    device = next(model.parameters()).device
    inputs = inputs.to(device)
    with evaluating(model):
        result = model.reconstruct(inputs, rank.to(device))
    head, grid = model.head, model.backbone.grid(*inputs.shape[2:])
    truth, pred = head.patchify(inputs), result.pred.float()
    error = (pred - head.target(inputs)).square().mean(-1)  # (B, N)
    if head.norm_pix:
        mean, std = head.patch_statistics(truth)
        pred = pred * std + mean
    composite = head.unpatchify(torch.where(result.predicted[..., None], pred, truth), grid)
    errors: list[list[float | None]] = []
    for ranks, values in zip(result.rank, error, strict=True):
        errors.append([None, *(values[ranks == r].mean().item() for r in range(1, int(ranks.max()) + 1))])
    return to_pixels(model, composite), errors


def draw_reconstruction(model: RandSAC, inputs: Tensor, path: str | Path, seed: int = 0) -> dict:
    """Draw predictions of normalised images (B, C, H, W), in serializations of the model's own kind, as a PNG.

    A row for each image: original, serialization, the predictions in their order, and all of them together. Of many
    segments a panel shows several that follow each other.

    Returns:
        Mean squared errors ``mse_per_rank`` of each image (None for rank 0), their means ``mse``, ``norm_pix``, and a
        ``note`` on what in the picture comes from the original.
    """
    grid = model.backbone.grid(*inputs.shape[2:])
    rank, groups = serialize(model.data_preprocessor.serialization, len(inputs), grid, seed)
    composites, errors = reconstruct(model, inputs, rank)
    steps = min(int(rank.max()), _STEPS)
    note = _TARGET_NOTE if model.head.norm_pix else _PIXEL_NOTE
    figure, axes = panel_figure(len(inputs), steps + 3, grid, _SIDE, f'{_STEP_NOTE} {note}')
    originals = to_pixels(model, inputs)
    for row, original, composite, ranks, levels in zip(
        axes, originals, composites, rank.numpy(), groups.numpy(), strict=True
    ):
        show(row[0], original, grid, 'original')
        draw_segments(row[1], original, ranks, grid, levels, 'serialization')
        for panel, span in zip(row[2:], np.array_split(np.arange(1, ranks.max() + 1), steps), strict=False):
            if len(span):  # blobs: fewer segments than in another row
                name = f'segment {span[0]}' if len(span) == 1 else f'segments {span[0]} to {span[-1]}'
                show(panel, step_image(original, composite, ranks, grid, span), grid, name)
                draw_borders(panel, np.where(np.isin(ranks, span), 0, -1), grid, ACCENT, 1.5)
        show(row[-1], composite, grid, 'first + predicted')
    save_figure(figure, path, note)
    mse = [float(np.mean(of_image[1:])) for of_image in errors]
    return {'norm_pix': model.head.norm_pix, 'note': note, 'mse': mse, 'mse_per_rank': errors}


def step_image(
    original: np.ndarray, composite: np.ndarray, ranks: np.ndarray, grid: Grid, span: np.ndarray
) -> np.ndarray:
    """Compose an image (H, W, 3): the original where ranks (N,) are before a span, predictions in it, then blank."""
    height, width = (side // tokens for side, tokens in zip(original.shape, grid, strict=False))
    place = ranks.reshape(grid).repeat(height, 0).repeat(width, 1)[..., None]
    blank = np.array([round(255 * c) for c in to_rgb(UNKNOWN)], np.uint8)
    return np.where(place < span[0], original, np.where(place <= span[-1], composite, blank))
