"""Data sets and loading, registered in mmpretrain's DATASETS and TRANSFORMS."""

from .cifar import PreparedCIFAR10
from .digits import Digits
from .images import UnreadableImageError, find_fault, read_image
from .loading import LoadImageStrict
from .shapes import make_shapes
from .unlabelled import UnlabelledImageFolder

__all__ = [
    'Digits',
    'LoadImageStrict',
    'PreparedCIFAR10',
    'UnlabelledImageFolder',
    'UnreadableImageError',
    'find_fault',
    'make_shapes',
    'read_image',
]
