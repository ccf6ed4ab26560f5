"""Models, registered in mmpretrain's MODELS."""

from .algorithm import RandSAC, Reconstruction
from .backbone import RandSACViT
from .decoder import RandSACDecoder, SkipConnection
from .head import RandSACHead
from .preprocessor import BatchAugmentDataPreprocessor, RandSACDataPreprocessor, build_serialization
from .two_stream import TwoStreamRandSAC

__all__ = [
    'BatchAugmentDataPreprocessor',
    'RandSAC',
    'RandSACDataPreprocessor',
    'RandSACDecoder',
    'RandSACHead',
    'RandSACViT',
    'Reconstruction',
    'SkipConnection',
    'TwoStreamRandSAC',
    'build_serialization',
]
