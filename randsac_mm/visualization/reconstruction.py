"""Pictures of what a model predicts, segment by segment."""

from pathlib import Path
from typing import NamedTuple

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
TARGET_NOTE = (
    'This model predicts patches that are normalised by their own mean and standard deviation (norm_pix). To be shown '
    'in pixels, each predicted patch gets the mean and standard deviation of the TARGET patch: its average colour '
    'and contrast come from the original, only the structure inside is predicted.'
)
PIXEL_NOTE = 'The model predicts pixels directly; nothing in the predicted patches comes from the original.'
_STEP_NOTE = (
    'Outlined: predicted, each segment from the true pixels of all segments before it. Blank: what comes later.'
)


class Reconstructed(NamedTuple):
    """Predictions of images, ready to be drawn."""

    original: np.ndarray  # the images as the model sees them (B, H, W, 3), uint8, RGB
    composite: np.ndarray  # the first segment's true pixels and the predictions of all others, same shape
    rank: Tensor  # the serialization (B, N)
    errors: list[list[float | None]]  # mean squared error of every rank of each image; None for rank 0
    norm_pix: bool  # whether mean and standard deviation of the target's patches were added to the predictions

    @property
    def note(self) -> str:
        """What in the predicted patches comes from the original."""
        return TARGET_NOTE if self.norm_pix else PIXEL_NOTE


def reconstruct(model: RandSAC, inputs: Tensor, rank: Tensor | None = None) -> Reconstructed:
    """Predict every segment of normalised images (B, C, H, W) from the true pixels of all earlier ones.

    The model is run in evaluation mode. The serialization (B, N) is drawn from the model's own if ``rank`` is None.

    Raises:
        ValueError: If ``rank`` does not fit, see :meth:`randsac_mm.models.RandSAC.reconstruct`.
    """
    device = next(model.parameters()).device
    inputs = inputs.to(device)
    with evaluating(model):
        result = model.reconstruct(inputs, None if rank is None else rank.to(device))
    head, grid = model.head, model.backbone.grid(*inputs.shape[2:])
    truth, pred = head.patchify(inputs), result.pred.float()
    error = (pred - head.target(inputs)).square().mean(-1)  # (B, N)
    if head.norm_pix:
        mean, std = head.patch_statistics(truth)
        pred = pred * std + mean
    composite = head.unpatchify(torch.where(result.predicted[..., None], pred, truth), grid)
    errors: list[list[float | None]] = []
    for ranks, values in zip(result.rank, error, strict=True):
        of_rank = [values[ranks == r].mean().item() for r in range(1, int(ranks.max()) + 1)]
        errors.append([None, *of_rank])
    return Reconstructed(
        to_pixels(model, inputs), to_pixels(model, composite), result.rank.cpu(), errors, head.norm_pix
    )


def draw_reconstruction(model: RandSAC, images: Tensor, path: str | Path, seed: int = 0) -> Reconstructed:
    """Draw predictions of normalised images (B, C, H, W), in serializations of the model's own kind, as a PNG.

    A row for each image: original, serialization, the predictions in their order, and all of them together. Segments
    before a step are the original's, since a prediction reads true pixels; those after it are blank. Of many segments
    a panel shows several that follow each other, each still predicted from the true pixels of all before it.
    """
    grid = model.backbone.grid(*images.shape[2:])
    rank, groups = serialize(model.data_preprocessor.serialization, len(images), grid, seed)
    done = reconstruct(model, images, rank)
    steps = min(int(done.rank.max()), _STEPS)
    note = f'{_STEP_NOTE} {done.note}'
    figure, axes = panel_figure(len(images), steps + 3, grid, _SIDE, note)
    for i, (row, ranks) in enumerate(zip(axes, done.rank.numpy(), strict=True)):
        original, composite = done.original[i], done.composite[i]
        show(row[0], original, grid, 'original')
        draw_segments(row[1], original, ranks, grid, groups[i].numpy(), 'serialization')
        for panel, span in zip(row[2:], np.array_split(np.arange(1, ranks.max() + 1), steps), strict=False):
            if len(span):  # blobs: fewer segments than in another row
                name = f'segment {span[0]}' if len(span) == 1 else f'segments {span[0]} to {span[-1]}'
                show(panel, step_image(original, composite, ranks, grid, span), grid, name)
                draw_borders(panel, np.where(np.isin(ranks, span), 0, -1), grid, ACCENT, 1.5)
        show(row[-1], composite, grid, 'first + predicted')
    save_figure(figure, path, note)
    return done


def step_image(
    original: np.ndarray, composite: np.ndarray, ranks: np.ndarray, grid: Grid, span: np.ndarray
) -> np.ndarray:
    """Compose an image (H, W, 3): the original where ranks (N,) are before a span, predictions in it, then blank."""
    height, width = (side // tokens for side, tokens in zip(original.shape, grid, strict=False))
    place = ranks.reshape(grid).repeat(height, 0).repeat(width, 1)[..., None]
    blank = np.array([round(255 * c) for c in to_rgb(UNKNOWN)], np.uint8)
    return np.where(place < span[0], original, np.where(place <= span[-1], composite, blank))
