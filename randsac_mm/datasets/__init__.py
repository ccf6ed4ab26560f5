"""Data sets and loading, registered in mmpretrain's DATASETS and TRANSFORMS."""

from .cache import CachedImages
from .cifar import PreparedCIFAR10
from .digits import Digits
from .images import UnreadableImageError, find_fault, find_image_files, read_image
from .in_memory import InMemoryDataset, WholeBatch, collate_whole_batch
from .loading import LoadImageStrict
from .shapes import make_shapes
from .unlabelled import UnlabelledImageFolder

__all__ = [
    'CachedImages',
    'Digits',
    'InMemoryDataset',
    'LoadImageStrict',
    'PreparedCIFAR10',
    'UnlabelledImageFolder',
    'UnreadableImageError',
    'WholeBatch',
    'collate_whole_batch',
    'find_fault',
    'find_image_files',
    'make_shapes',
    'read_image',
]
