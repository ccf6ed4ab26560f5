"""Transforms of a batch: ``transform(images, generator)``, with a draw of its own for every image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .boxes import draw_boxes
from .resize import INTERPOLATIONS, BoxResize


class BatchRandomResizedCrop:
    """Cut a random box out of each image, resize it, and perhaps mirror it.

    The boxes are distributed as those of mmpretrain's ``RandomResizedCrop``, whose arguments have the same names here,
    and the pixels are those of its ``backend='pillow'`` to within rounding.

    Args:
        scale: Height and width of the result, or its side, in pixels.
        crop_ratio_range: Smallest and largest area of a box, as a part of the image's area, within (0, 1].
        aspect_ratio_range: Smallest and largest width / height of a box.
        max_attempts: Number of boxes that are tried for one image before its central box is taken.
        interpolation: ``'bicubic'`` or ``'bilinear'``, antialiased.
        flip_prob: Probability of mirroring left to right, which costs nothing here.
        rounding: Whether pixels are rounded to whole numbers of 0 .. 255, as 8-bit images are.

    Raises:
        ValueError: If a value is outside of its range.

    Example:
        >>> crop = BatchRandomResizedCrop(8, crop_ratio_range=(0.2, 1.0), flip_prob=0.5)
        >>> images = torch.randint(256, (5, 3, 32, 48), dtype=torch.uint8)
        >>> found = crop(images, torch.Generator().manual_seed(0))
        >>> found.shape, found.dtype
        (torch.Size([5, 3, 8, 8]), torch.float32)
    """

    def __init__(
        self,
        scale: int | Sequence[int],
        crop_ratio_range: Sequence[float] = (0.08, 1.0),
        aspect_ratio_range: Sequence[float] = (3 / 4, 4 / 3),
        max_attempts: int = 10,
        interpolation: str = 'bicubic',
        flip_prob: float = 0.0,
        rounding: bool = True,
    ) -> None:
        size = (scale, scale) if isinstance(scale, int) else tuple(scale)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f'scale={scale!r} must be a side of at least 1 pixel, or height and width')
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f'interpolation={interpolation!r} must be one of {sorted(INTERPOLATIONS)}')
        if max_attempts < 0:
            raise ValueError(f'max_attempts={max_attempts} must be at least 0; 0 takes the central box of each image')
        _check_probability('flip_prob', flip_prob)
        self.crop_ratio_range = _checked_range('crop_ratio_range', crop_ratio_range, 1.0)
        self.aspect_ratio_range = _checked_range('aspect_ratio_range', aspect_ratio_range, float('inf'))
        self.scale = size
        self.max_attempts = max_attempts
        self.flip_prob = flip_prob
        self._resize = BoxResize(size, interpolation, rounding)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Crop a batch.

        Args:
            images: Images (B, C, H, W), uint8.
            generator: Source of randomness, on the device of the images.

        Returns:
            Images (B, C, *scale), float32, values of 0 .. 255.
        """
        count, size, device = len(images), tuple(images.shape[2:]), images.device
        ranges = (self.crop_ratio_range, self.aspect_ratio_range)
        boxes = draw_boxes(count, size, *ranges, self.max_attempts, generator, device)
        return self._resize(images, boxes, _draw_flips(count, self.flip_prob, generator, device))


class BatchRandomFlip:
    """Mirror each image left to right with a probability.

    Together with a crop use ``flip_prob`` of :class:`BatchRandomResizedCrop` instead.

    Args:
        prob: The probability.

    Raises:
        ValueError: If it is none.

    Example:
        >>> images = torch.tensor([[[[1, 2, 3]]]], dtype=torch.uint8)
        >>> BatchRandomFlip(prob=1.0)(images, torch.Generator())
        tensor([[[[3, 2, 1]]]], dtype=torch.uint8)
    """

    def __init__(self, prob: float = 0.5) -> None:
        _check_probability('prob', prob)
        self.prob = prob

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirror some images.

        Args:
            images: Images (B, C, H, W), any dtype.
            generator: Source of randomness, on the device of the images.

        Returns:
            Images of the same shape and dtype.
        """
        flip = _draw_flips(len(images), self.prob, generator, images.device)
        return images if flip is None else torch.where(flip[:, None, None, None], images.flip(-1), images)


def _draw_flips(count: int, prob: float, generator: torch.Generator, device: torch.device) -> Tensor | None:
    """Draw which images are mirrored (B,), bool; None if none can be."""
    return torch.rand(count, generator=generator, device=device) < prob if prob else None


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f'{name}={value!r} must be a probability between 0 and 1')


def _checked_range(name: str, values: Sequence[float], limit: float) -> tuple[float, float]:
    if len(values) != 2 or not 0 < values[0] <= values[1] <= limit:
        upper = f' and at most {limit:g}' if limit < float('inf') else ''
        raise ValueError(f'{name}={values!r} must be (smallest, largest), both above 0{upper}')
    return float(values[0]), float(values[1])
