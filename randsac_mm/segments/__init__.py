"""Segments: who comes before whom. Pure torch, readable alone (paper sections 3 and 4.1)."""

from .blob import BlobPartition
from .layout import Layout, raster_layout, sorted_layout
from .masks import RankMask, additive, memory_mask, open_empty_rows, source_mask, target_mask
from .partition import Partition, PatchPartition, ShuffledPartition, SquarePartition
from .serialization import RandomSerialization, RasterSerialization, Serialization, dense_rank

__all__ = [
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
    'additive',
    'dense_rank',
    'memory_mask',
    'open_empty_rows',
    'raster_layout',
    'sorted_layout',
    'source_mask',
    'target_mask',
]
