"""Boxes of random-resized-crop for a whole batch, in the distribution of mmpretrain's transform of one image.

    boxes (B, 4)   int64: top, left, height, width, in pixels

No value is ever read back from the device.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Range = tuple[float, float]


def draw_boxes(
    count: int,
    size: tuple[int, int],
    crop_ratio_range: Range,
    aspect_ratio_range: Range,
    max_attempts: int,
    generator: torch.Generator,
    device: torch.device,
) -> Tensor:
    """Draw one box for each image.

    Args:
        count: Number of images B.
        size: Height and width of the images, in pixels.
        crop_ratio_range: Smallest and largest area of a box, as a part of the image's area.
        aspect_ratio_range: Smallest and largest width / height of a box, drawn uniformly in its logarithm.
        max_attempts: Number of areas and ratios that are tried before the box is the central one.
        generator: Source of randomness, on ``device``.
        device: Where the result lives.

    Returns:
        Boxes (B, 4).

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> draw_boxes(2, (32, 32), (1.0, 1.0), (1.0, 1.0), 10, generator, torch.device('cpu'))
        tensor([[ 0,  0, 32, 32],
                [ 0,  0, 32, 32]])
    """
    # float64, as Python's floats in the transform of one image: sizes are rounded, and ties should not move.
    options = {'dtype': torch.float64, 'device': device, 'generator': generator}
    shapes = torch.rand(2, count, max_attempts, **options)
    corners = torch.rand(2, count, **options)
    return place_boxes(shapes, corners, size, crop_ratio_range, aspect_ratio_range)


def place_boxes(
    shapes: Tensor, corners: Tensor, size: tuple[int, int], crop_ratio_range: Range, aspect_ratio_range: Range
) -> Tensor:
    """Turn uniform numbers into boxes: for each image the first attempt that fits, else the central box.

    Args:
        shapes: Uniform numbers in [0, 1) for area and ratio of every attempt (2, B, attempts), float64.
        corners: Uniform numbers in [0, 1) for top and left (2, B), float64.
        size: Height and width of the images, in pixels.
        crop_ratio_range: Range of the area, see :func:`draw_boxes`.
        aspect_ratio_range: Range of width / height.

    Returns:
        Boxes (B, 4), int64.
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

    Args:
        size: Height and width of the image, in pixels.
        aspect_ratio_range: Range of width / height.

    Returns:
        Top, left, height, width.

    Example:
        >>> central_box((30, 100), (0.75, 4 / 3))
        (0, 30, 30, 40)
    """
    height, width = size
    low, high = aspect_ratio_range
    tall, wide = height, width
    if width / height < low:
        tall = round(width / low)
    elif width / height > high:
        wide = round(height * high)
    return (height - tall) // 2, (width - wide) // 2, tall, wide
