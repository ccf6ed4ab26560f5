"""Crop, flip and resize each image of a batch by its own box, as two batched matrix products.

Resizing is linear and separable, so a box and its filter are one matrix for the rows of an image and one for its
columns, and a flip reverses the rows of the latter. The filters are those of Pillow: antialiased, that is, widened when
the box shrinks, with a = -0.5 in the cubic; as there, columns come first and pixels are rounded after each product.
(Pillow 13 starts with the rows where a box shrinks much more in height, which matters only where the cubic overshoots.)
"""

from collections.abc import Callable

import torch
from torch import Tensor


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_(min=0)


def _cubic(distance: Tensor) -> Tensor:
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = distance.clamp(max=2)
    far = ((far - 5) * far + 8) * far * -0.5 + 2
    return torch.where(distance < 1, near, far)


INTERPOLATIONS: dict[str, Callable[[Tensor], Tensor]] = {'bilinear': _triangle, 'bicubic': _cubic}
"""Filters: from the distance to the centre, in pixels of the smaller scale, to the weight before normalisation."""

_TABLE_BYTES = 2**26
_CACHED_IMAGES = 64


def resize_weights(start: Tensor, length: Tensor, source: int, target: int, interpolation: str) -> Tensor:
    """Compute the matrices that cut intervals out of a row of ``source`` pixels and resize them to ``target`` pixels.

    ``start`` and ``length``, at least 1, are first pixel and number of pixels of each interval, both (B,), int64.

    Returns:
        Weights (B, target, source), float32; they sum to 1 for each target pixel and are 0 outside the interval.

    Example:
        >>> resize_weights(torch.tensor([1]), torch.tensor([4]), source=6, target=2, interpolation='bilinear')
        tensor([[[0.0000, 0.4286, 0.4286, 0.1429, 0.0000, 0.0000],
                 [0.0000, 0.0000, 0.1429, 0.4286, 0.4286, 0.0000]]])
    """
    scale = length.double() / target
    pixels = torch.arange(source, device=start.device)
    centres = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale[:, None]
    whole = centres.floor()
    # Integer and fraction apart: float32 then is exact to 1e-7 in rows of any length.
    distance = (pixels - whole[..., None]).float() + (0.5 - (centres - whole)).float()[..., None]
    distance = distance.abs_() / scale.clamp(min=1).float()[:, None, None]
    weights = INTERPOLATIONS[interpolation](distance)
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
    weights = weights * inside[:, None]
    return weights / weights.sum(2, keepdim=True)


def _to_pixels(values: Tensor, out: Tensor) -> None:
    """Round to 0 .. 255 into ``out``; as in Pillow, a half goes up."""
    torch.add(values, 0.5, out=out).floor_().clamp_(0, 255)


class BoxResize:
    """Crop and resize of each image of a batch to a height and width in pixels, those of Pillow to within rounding.

    For small images the matrices of all boxes are computed once (8 MiB for 32 -> 32 pixels) and looked up.

    Example:
        >>> images = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4)
        >>> boxes = torch.tensor([[1, 0, 2, 2]])  # top, left, height, width
        >>> BoxResize((2, 2))(images, boxes, flip=torch.tensor([True]))
        tensor([[[[5., 4.],
                  [9., 8.]]]])
    """

    def __init__(self, size: tuple[int, int], interpolation: str = 'bicubic') -> None:
        self.size = size
        self.interpolation = interpolation
        self._tables: dict[tuple[torch.device, int, int], Tensor] = {}

    @torch.no_grad()
    def __call__(self, images: Tensor, boxes: Tensor, flip: Tensor) -> Tensor:
        """Crop, resize and flip a batch.

        Args:
            images: Images (B, C, H, W), uint8, or another dtype with values of 0 .. 255.
            boxes: Top, left, height and width of each image's box (B, 4), int64, on the device of the images.
            flip: Which images are flipped left to right (B,), bool, same device.

        Returns:
            Images (B, C, *size), float32, whole numbers of 0 .. 255.
        """
        result = torch.empty((*images.shape[:2], *self.size), device=images.device)
        # A CPU is faster with parts that fit its cache; a GPU wants few and large operations.
        part = _CACHED_IMAGES if images.device.type == 'cpu' else max(len(images), 1)
        # A training step may run under autocast, whose bfloat16 has too few digits for pixels.
        with torch.autocast(images.device.type, enabled=False):
            for operands in zip(*(tensor.split(part) for tensor in (images, boxes, flip, result)), strict=True):
                self._resize(*operands)
        return result

    def _resize(self, images: Tensor, boxes: Tensor, flip: Tensor, result: Tensor) -> None:
        """Process a part of a batch into ``result``."""
        batch, channels, height, width = images.shape
        top, left, tall, wide = boxes.unbind(1)
        rows = self._weights(top, tall, height, self.size[0], torch.zeros_like(flip))
        columns = self._weights(left, wide, width, self.size[1], flip)
        # In this order of axes, (B, H, C, W), neither product needs a copy of its operands.
        pixels = images.permute(0, 2, 1, 3).to(torch.float32, memory_format=torch.contiguous_format)
        pixels = torch.bmm(pixels.reshape(batch, height * channels, width), columns.transpose(1, 2))
        _to_pixels(pixels, out=pixels)
        pixels = torch.bmm(rows, pixels.view(batch, height, channels * self.size[1]))
        _to_pixels(pixels.view(batch, self.size[0], channels, self.size[1]).permute(0, 2, 1, 3), out=result)

    def _weights(self, start: Tensor, length: Tensor, source: int, target: int, flip: Tensor) -> Tensor:
        """Compute or look up the matrices of a batch, (B, target, source); ``flip`` reverses their rows."""
        if 2 * source**3 * target * 4 > _TABLE_BYTES:
            weights = resize_weights(start, length, source, target, self.interpolation)
            return torch.where(flip[:, None, None], weights.flip(1), weights)
        key = (start.device, source, target)
        if key not in self._tables:  # all intervals, also flipped: (2 * source^2, target, source)
            numbers = torch.arange(source, device=start.device)
            first, pixels = numbers.repeat_interleave(source), numbers.repeat(source) + 1
            pixels = torch.minimum(pixels, source - first)  # those that would leave the row are never looked up
            weights = resize_weights(first, pixels, source, target, self.interpolation)
            self._tables[key] = torch.cat([weights, weights.flip(1)])
        return self._tables[key].index_select(0, flip * source**2 + start * source + length - 1)
