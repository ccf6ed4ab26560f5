"""Augmentation of whole batches, every image by its own draw, on the device where the batch is. Pure torch."""

from .boxes import draw_boxes, place_boxes
from .resize import INTERPOLATIONS, BoxResize, resize_weights
from .transforms import BatchRandomFlip, BatchRandomResizedCrop

__all__ = [
    'INTERPOLATIONS',
    'BatchRandomFlip',
    'BatchRandomResizedCrop',
    'BoxResize',
    'draw_boxes',
    'place_boxes',
    'resize_weights',
]
