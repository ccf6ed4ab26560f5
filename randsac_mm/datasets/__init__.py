"""Data sets, loading and whole-batch crops, registered in mmpretrain's DATASETS, TRANSFORMS and TASK_UTILS."""

from .batch_crops import BatchRandomResizedCrop
from .cache import CachedImages
from .cifar import PreparedCIFAR10
from .digits import Digits
from .folders import LabelledImageFolder, SegmentationFolder, UnlabelledImageFolder
from .images import UnreadableImageError, find_fault, find_image_files, fit_image, read_image, read_mask, spread
from .in_memory import InMemoryDataset, WholeBatch, collate_whole_batch
from .transforms import LoadImageStrict, LoadMaskStrict, use_strict_readers

__all__ = [
    'BatchRandomResizedCrop',
    'CachedImages',
    'Digits',
    'InMemoryDataset',
    'LabelledImageFolder',
    'LoadImageStrict',
    'LoadMaskStrict',
    'PreparedCIFAR10',
    'SegmentationFolder',
    'UnlabelledImageFolder',
    'UnreadableImageError',
    'WholeBatch',
    'collate_whole_batch',
    'find_fault',
    'find_image_files',
    'fit_image',
    'read_image',
    'read_mask',
    'spread',
    'use_strict_readers',
]
