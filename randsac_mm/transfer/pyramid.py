"""A feature pyramid from the maps of a plain ViT, for mmseg's and mmdet's heads (paper B.1, B.2)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn

from randsac_mm.registry import register

STRIDES = (4, 8, 16, 32)  # of the outputs, in pixels
# The layers that feed the pyramid, as the number of layers done out of twelve.
_TWELFTHS = {
    'segmentation': (4, 6, 8, 12),  # BEiT's choice for UPerNet: [3, 5, 7, 11] of ViT-B
    'detection': (3, 6, 9, 12),  # the ends of four equal groups: [2, 5, 8, 11] of ViT-B
}


def pyramid_indices(task: str, num_layers: int) -> list[int]:
    """Return the four layers, counted from 0, whose outputs make the pyramid.

    For ``task='segmentation'``, UPerNet, they lie at 4, 6, 8 and 12 twelfths of the depth; for ``'detection'``, Mask
    R-CNN, at the ends of four equal groups.

    Raises:
        ValueError: If ``task`` is neither, or there are fewer than four layers.

    Paper:
        Appendix B.1 and B.2.

    Example:
        >>> pyramid_indices('segmentation', 12), pyramid_indices('detection', 12)
        ([3, 5, 7, 11], [2, 5, 8, 11])
    """
    if task not in _TWELFTHS:
        raise ValueError(f'out_indices={task!r} must be one of {sorted(_TWELFTHS)}, or a list of layers')
    if num_layers < 4:
        raise ValueError(f'num_layers={num_layers}: a pyramid of four maps needs at least 4 layers')
    ends = [math.floor(num_layers * part / 12 + 0.5) for part in _TWELFTHS[task]]
    for i in (2, 1, 0):  # in shallow networks two may round to the same layer
        ends[i] = min(ends[i], ends[i + 1] - 1)
    return [end - 1 for end in ends]


@register('MODELS', everywhere=True)
class ViTPyramid(BaseModule):
    """Neck that resizes four maps of a plain ViT, all of stride P, to strides 4, 8, 16 and 32.

    Each map is doubled or halved until it is closest to its stride: by transposed convolutions (kernel 2, with norm and
    GELU between two of them), or by max pooling. If P is no power of two, bilinear sampling follows, so that pixel x
    always lies at x / stride. A last row or column that is only partly inside the image is kept.

    Args:
        embed_dims: Channels D of the maps.
        patch_size: Side P of the backbone's patches in pixels, 8 to 16.
        norm_cfg: Norm between two transposed convolutions.
        init_cfg: Initialisation, as in mmengine.

    Raises:
        ValueError: If the patch size is outside 8 to 16.

    Paper:
        Appendix B.2; the operations are those of BEiT's and MAE's transfer.
    """

    def __init__(
        self,
        embed_dims: int,
        patch_size: int = 16,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if not 8 <= patch_size <= 16:
            raise ValueError(f'patch_size={patch_size} must lie between 8 and 16 for a pyramid')
        norm_cfg = norm_cfg or dict(type='SyncBN', requires_grad=True)
        self.embed_dims = embed_dims
        self.patch_size = patch_size
        doublings = [round(math.log2(patch_size / stride)) for stride in STRIDES]
        self.scales = nn.ModuleList(self._scale(doubling, norm_cfg) for doubling in doublings)
        # Strides of the maps after doubling and halving; fractions of pixels if P is no power of two.
        self._reached = [patch_size / 2**doubling for doubling in doublings]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Resize four maps (B, D, H / P, W / P), from shallow to deep, to (B, D, ceil(H / stride), ceil(W / stride)).

        Raises:
            ValueError: If the number of maps or of channels does not fit.
        """
        if len(maps) != len(STRIDES):
            raise ValueError(f'the pyramid needs {len(STRIDES)} maps, got {len(maps)}: set out_indices in the backbone')
        if maps[0].ndim != 4 or maps[0].shape[1] != self.embed_dims:
            raise ValueError(
                f'the maps have shape {tuple(maps[0].shape)}, but the pyramid expects (B, {self.embed_dims}, h, w): '
                "set its embed_dims to the backbone's, and out_type='featmap' in the backbone"
            )
        return tuple(
            self._sample(scale(x), x.shape[2:], reached, stride)
            for x, scale, reached, stride in zip(maps, self.scales, self._reached, STRIDES, strict=True)
        )

    def _scale(self, doubling: int, norm_cfg: dict) -> nn.Module:
        dims = self.embed_dims
        if doubling == 2:
            return nn.Sequential(
                nn.ConvTranspose2d(dims, dims, 2, 2),
                build_norm_layer(norm_cfg, dims)[1],
                nn.GELU(),
                nn.ConvTranspose2d(dims, dims, 2, 2),
            )
        if doubling == 1:
            return nn.ConvTranspose2d(dims, dims, 2, 2)
        if doubling == 0:
            return nn.Identity()
        return nn.MaxPool2d(2**-doubling, ceil_mode=True)

    def _sample(self, x: Tensor, grid: Sequence[int], reached: float, stride: int) -> Tensor:
        """Resample a map (B, D, y, x) of stride ``reached`` at the exact places of ``stride``."""
        if reached == stride:
            return x
        dtype = torch.promote_types(x.dtype, torch.float32)  # in bfloat16 the places would be off by whole cells
        places = []
        for length, tokens in zip(x.shape[2:], grid, strict=True):
            wanted = math.ceil(tokens * self.patch_size / stride)
            middle = (torch.arange(wanted, device=x.device, dtype=dtype) + 0.5) * (stride / reached)  # in cells of x
            places.append(middle * (2 / length) - 1)  # grid_sample's units: -1 and 1 are the outer edges
        rows, columns = torch.meshgrid(*places, indexing='ij')
        where = torch.stack((columns, rows), dim=-1).expand(len(x), -1, -1, -1)
        return F.grid_sample(x.to(dtype), where, padding_mode='border', align_corners=False).to(x.dtype)
