"""Segments and the order in which they are predicted. Pure torch (paper sections 3 and 4.1)."""

from .blob import BlobPartition
from .layout import Layout, needed_tokens, raster_layout, sorted_layout, split_by_length
from .masks import NEVER, Mask, memory_mask, source_mask, target_mask
from .partition import Partition, PatchPartition, ShuffledPartition, SquarePartition
from .serialization import RandomSerialization, RasterSerialization, Serialization, dense_rank

__all__ = [
    'NEVER',
    'BlobPartition',
    'Layout',
    'Mask',
    'Partition',
    'PatchPartition',
    'RandomSerialization',
    'RasterSerialization',
    'Serialization',
    'ShuffledPartition',
    'SquarePartition',
    'dense_rank',
    'memory_mask',
    'needed_tokens',
    'raster_layout',
    'sorted_layout',
    'source_mask',
    'split_by_length',
    'target_mask',
]
