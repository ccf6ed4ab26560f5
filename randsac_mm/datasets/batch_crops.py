"""Random crops and flips of whole batches, with a draw of its own for every image, on the device of the batch.

    images (B, C, H, W)   uint8, pixels 0 .. 255
    boxes (B, 4)          int64: top, left, height, width, in pixels

No value is ever read back from the device.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from randsac_mm.registry import register
from randsac_mm.segments.draws import draw_uniform

from .box_resize import INTERPOLATIONS, BoxResize

Range = tuple[float, float]
_ATTEMPTS = 10  # boxes that are tried for an image before its central box is taken, as in mmpretrain


@register('TASK_UTILS')
class BatchRandomResizedCrop:
    """Random resized crop of each image of a batch, with a random horizontal flip.

    Boxes have the distribution of mmpretrain's ``RandomResizedCrop``, whose arguments have the same names, and pixels
    are those of its ``backend='pillow'`` to within rounding.

    Args:
        scale: Height and width of the result, or its side, in pixels.
        crop_ratio_range: Smallest and largest area of a box, as a fraction of the image's area, within (0, 1].
        aspect_ratio_range: Smallest and largest width / height of a box.
        interpolation: ``'bicubic'`` or ``'bilinear'``, antialiased.
        flip_prob: Probability of a horizontal flip.

    Raises:
        ValueError: If a value is out of range.
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        crop_ratio_range: Sequence[float] = (0.08, 1.0),
        aspect_ratio_range: Sequence[float] = (3 / 4, 4 / 3),
        interpolation: str = 'bicubic',
        flip_prob: float = 0.0,
    ) -> None:
        size = (scale, scale) if isinstance(scale, int) else tuple(scale)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f'scale={scale!r} must be a side of at least 1 pixel, or height and width')
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f'interpolation={interpolation!r} must be one of {sorted(INTERPOLATIONS)}')
        if not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob={flip_prob!r} must be a probability between 0 and 1')
        self.crop_ratio_range = _checked_range('crop_ratio_range', crop_ratio_range, 1.0)
        self.aspect_ratio_range = _checked_range('aspect_ratio_range', aspect_ratio_range, math.inf)
        self.scale = size
        self.flip_prob = flip_prob
        self._resize = BoxResize(size, interpolation)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop images (B, C, H, W), uint8, to (B, C, *scale), float32, whole numbers of 0 .. 255."""
        # float64, as Python's floats in the transform of one image: sizes are rounded, and ties should not move.
        shapes = draw_uniform((2, len(images), _ATTEMPTS), generator, batch_dim=1, double=True)
        corners = draw_uniform((2, len(images)), generator, batch_dim=1, double=True)
        boxes = place_boxes(shapes, corners, tuple(images.shape[2:]), self.crop_ratio_range, self.aspect_ratio_range)
        flip = draw_uniform((len(images),), generator) < self.flip_prob
        return self._resize(images, boxes, flip)


def place_boxes(
    shapes: Tensor, corners: Tensor, size: tuple[int, int], crop_ratio_range: Range, aspect_ratio_range: Range
) -> Tensor:
    """Compute boxes from uniform numbers: for each image the first attempt that fits, else the central box.

    The numbers, in [0, 1), float64, are ``shapes`` (2, B, attempts) for area and logarithm of the aspect ratio, and
    ``corners`` (2, B) for top and left. For ranges see :class:`BatchRandomResizedCrop`.

    Returns:
        Boxes (B, 4), int64, in images whose height and width are ``size``.
    """
    height, width = size
    low, high = crop_ratio_range
    area = (low + (high - low) * shapes[0]) * (height * width)
    low, high = (math.log(value) for value in aspect_ratio_range)
    ratio = torch.exp(low + (high - low) * shapes[1])
    tall = torch.sqrt(area / ratio).round()
    wide = torch.sqrt(area * ratio).round()
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)

    # The central box is one more attempt, which always fits.
    central = central_box(size, aspect_ratio_range)
    attempts = shapes.shape[2]
    order = torch.arange(attempts + 1, device=shapes.device)
    chosen = torch.where(F.pad(fits, (0, 1), value=True), order, attempts).amin(1, keepdim=True)
    tall = F.pad(tall, (0, 1), value=central[2]).gather(1, chosen)[:, 0]
    wide = F.pad(wide, (0, 1), value=central[3]).gather(1, chosen)[:, 0]
    failed = chosen[:, 0] == attempts
    top = torch.where(failed, central[0], (corners[0] * (height - tall + 1)).floor())
    left = torch.where(failed, central[1], (corners[1] * (width - wide + 1)).floor())
    return torch.stack([top, left, tall, wide], 1).long()


def central_box(size: tuple[int, int], aspect_ratio_range: Range) -> tuple[int, int, int, int]:
    """Return the largest box in the middle of an image whose width / height is within the range.

    Example:
        >>> central_box((30, 100), (0.75, 4 / 3))
        (0, 30, 30, 40)
    """
    height, width = size
    low, high = aspect_ratio_range
    tall = min(height, round(width / low))
    wide = min(width, round(height * high))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _checked_range(name: str, values: Sequence[float], limit: float) -> Range:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= limit:
        raise ValueError(f'{name}={values!r} must be (smallest, largest), both above 0 and at most {limit:g}')
    return float(values[0]), float(values[1])
