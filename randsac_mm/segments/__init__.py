"""Segments: who comes before whom. Pure torch, readable alone (paper sections 3 and 4.1)."""

from .blob import BlobPartition
from .layout import Layout, raster_layout, sorted_layout
from .masks import NEVER, RankMask, memory_mask, source_mask, target_mask
from .partition import Partition, PatchPartition, ShuffledPartition, SquarePartition
from .serialization import RandomSerialization, RasterSerialization, Serialization, dense_rank

__all__ = [
    'NEVER',
    'BlobPartition',
    'Layout',
    'Partition',
    'PatchPartition',
    'RandomSerialization',
    'RankMask',
    'RasterSerialization',
    'Serialization',
    'ShuffledPartition',
    'SquarePartition',
    'dense_rank',
    'memory_mask',
    'raster_layout',
    'sorted_layout',
    'source_mask',
    'target_mask',
]
