"""Pictures of what a model predicts, segment by segment."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from randsac_mm.models import RandSAC

from .canvas import (
    ACCENT,
    PAPER,
    UNKNOWN,
    beside,
    captioned,
    cell_size,
    enlarge,
    frame,
    paragraph,
    per_pixel,
    save,
    stacked,
)
from .loading import evaluating, to_pixels
from .serialization import serialization_panel

_SIDE = 132  # pixels of a panel's longer side
TARGET_NOTE = (
    'This model predicts patches that are normalised by their own mean and standard deviation (norm_pix). To be shown '
    'in pixels, each predicted patch is given the mean and standard deviation of the TARGET patch: its average colour '
    'and contrast come from the original, only the structure inside is predicted.'
)
PIXEL_NOTE = 'The model predicts pixels directly; nothing in the predicted patches comes from the original.'
_STEP_NOTE = (
    'Outlined: predicted, each segment from the true pixels of all segments before it. Blank: what comes later.'
)


class Reconstructed(NamedTuple):
    """Hold predictions of images, ready to be drawn.

    Attributes:
        original: The images as the model sees them (B, H, W, 3), uint8, RGB.
        composite: The first segment's true pixels and the predictions of all others, same shape.
        rank: The serialization (B, N).
        errors: Mean squared error of every rank, one list per image; what the loss averages, in the space of the head's
            target. Entry 0 is None, for the segment that is not predicted.
        uses_target: Whether mean and standard deviation of the target's patches were added to the predictions.
    """

    original: np.ndarray
    composite: np.ndarray
    rank: Tensor
    errors: list[list[float | None]]
    uses_target: bool


def reconstruct(model: RandSAC, inputs: Tensor, rank: Tensor | None = None) -> Reconstructed:
    """Predict every segment of images from the true pixels of all earlier ones.

    Args:
        model: The model; it is run in evaluation mode.
        inputs: Normalised images (B, C, H, W).
        rank: The serialization (B, N); drawn from the model's own if None.

    Returns:
        Originals, composites and errors.

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


def draw_reconstruction(
    model: RandSAC,
    images: Tensor,
    path: str | Path,
    rank: Tensor | None = None,
    groups: Tensor | None = None,
    max_steps: int = 8,
) -> Reconstructed:
    """Draw a row for each image: original, serialization, the predictions in their order, and all of them together.

    Segments before a step are the original's, since a prediction reads true pixels; those after it are blank.

    Args:
        model: The model.
        images: Normalised images (B, C, H, W).
        path: Where the PNG goes.
        rank: The serialization (B, N); drawn from the model's own if None.
        groups: Ids of coarser levels (B, L - 1, N), outlined in bold; see :func:`randsac_mm.visualization.serialize`.
        max_steps: Most panels between serialization and composite. If there are more segments, a panel shows several
            that follow each other, each still predicted from the true pixels of all before it.

    Returns:
        What was drawn, with the errors of every rank.

    Raises:
        ValueError: If ``rank`` does not fit the images, or ``max_steps`` is below 1.
    """
    if max_steps < 1:
        raise ValueError(f'max_steps={max_steps} must be at least 1: the panels that show the predictions in order')
    done = reconstruct(model, images, rank)
    grid = model.backbone.grid(*images.shape[2:])
    cell = cell_size(grid, _SIDE)
    columns = min(int(done.rank.max()), max_steps)
    rows = []
    for i, ranks in enumerate(done.rank.numpy()):
        original, composite = (enlarge(picture[i], grid, cell) for picture in (done.original, done.composite))
        levels = None if groups is None else groups[i].cpu().numpy()
        panels = [original, serialization_panel(done.original[i], ranks, grid, cell, levels)]
        captions = ['original', 'serialization']
        spans = [span for span in np.array_split(np.arange(1, ranks.max() + 1), columns) if len(span)]
        for span in spans:
            panels.append(_step(original, composite, ranks, grid, span))
            captions.append(f'segment {span[0]}' if len(span) == 1 else f'segments {span[0]} to {span[-1]}')
        blank = np.full_like(original, PAPER[0])
        panels += [blank] * (columns - len(spans)) + [composite]  # blobs: fewer segments than in another row
        captions += [''] * (columns - len(spans)) + ['first + predicted']
        rows.append(beside([captioned(*pair, 13) for pair in zip(panels, captions, strict=True)], gap=8))
    note = f'{_STEP_NOTE} {TARGET_NOTE if done.uses_target else PIXEL_NOTE}'
    save(stacked([*rows, paragraph(note, rows[0].width, 14)]), path)
    return done


def _step(
    original: np.ndarray, composite: np.ndarray, ranks: np.ndarray, grid: tuple[int, int], span: np.ndarray
) -> np.ndarray:
    """Draw the predictions of some ranks, on what was known before and blank where nothing is known yet."""
    place = per_pixel(ranks, grid, original.shape[0] // grid[0])
    now = (place >= span[0]) & (place <= span[-1])
    panel = np.where((place < span[0])[..., None], original, np.array(UNKNOWN, np.uint8))
    return frame(np.where(now[..., None], composite, panel), now, ACCENT, 2)
