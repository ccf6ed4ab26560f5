"""What mmseg, mmdet and mmpretrain need to use a pre-trained backbone; imports neither of the first two."""

from randsac_mm.transfer.pyramid import ViTPyramid, pyramid_indices

__all__ = ['ViTPyramid', 'pyramid_indices']
