"""What mmseg, mmdet and mmpretrain need to use a pre-trained backbone; imports neither of the first two."""

from randsac_mm.transfer.layer_decay import LayerDecayOptimWrapperConstructor
from randsac_mm.transfer.model_loading import load_model
from randsac_mm.transfer.pyramid import ViTPyramid, pyramid_indices
from randsac_mm.transfer.strict_loading import LoadReport, StrictPretrained, load_backbone

__all__ = [
    'LayerDecayOptimWrapperConstructor',
    'LoadReport',
    'StrictPretrained',
    'ViTPyramid',
    'load_backbone',
    'load_model',
    'pyramid_indices',
]
