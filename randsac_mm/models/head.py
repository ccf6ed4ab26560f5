"""The head: pixels of the predicted patches and their loss (paper section 5 and appendix B.4)."""

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from randsac_mm.registry import register

from .layers import apply_linear, init_projections

_VARIANCE_EPS = 1e-6  # keeps blank patches finite, as in MAE


@register('MODELS')
class RandSACHead(BaseModule):
    """Linear head that predicts the pixels of patches, with the mean squared error as its loss.

    Args:
        embed_dims: Width D of the incoming tokens. :class:`RandSAC` fills in this and the next two.
        patch_size: Side P of a patch, in pixels.
        in_channels: Number of image channels C.
        norm_pix: Whether a patch's target is normalised by the mean and standard deviation of that patch. The paper
            does so except in its CIFAR ablations (Tables 1-6, 9).
        init_cfg: Initialisation from a checkpoint, as in mmengine.

    Raises:
        ValueError: If ``norm_pix`` is set for patches of a single number.

    Paper:
        Section 5 "General Implementation Details", appendix B.4.
    """

    def __init__(
        self,
        embed_dims: int,
        patch_size: int,
        in_channels: int = 3,
        norm_pix: bool = True,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if norm_pix and patch_size**2 * in_channels < 2:
            raise ValueError(
                f'norm_pix=True needs patches of more than {patch_size} x {patch_size} x {in_channels} = 1 number: set '
                'it False'
            )
        self.embed_dims = embed_dims
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.norm_pix = norm_pix
        self.proj = nn.Linear(embed_dims, patch_size**2 * in_channels)
        init_projections(self)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (B, T, D) to patches (B, T, P * P * C)."""
        return apply_linear(self.proj, tokens)

    def patchify(self, images: Tensor) -> Tensor:
        """Split images (B, C, H, W) into patches (B, N, P * P * C) in raster order; rows, columns, channels inside."""
        p = self.patch_size
        cut = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, h, P, w, P)
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)

    def unpatchify(self, patches: Tensor, grid: tuple[int, int]) -> Tensor:
        """Merge patches (B, N, P * P * C) of a token grid to images (B, C, H, W)."""
        p = self.patch_size
        cut = patches.unflatten(2, (p, p, -1)).unflatten(1, grid)  # (B, h, w, P, P, C)
        return cut.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)

    def target(self, images: Tensor) -> Tensor:
        """Return the targets of images (B, C, H, W): patches (B, N, P * P * C), normalised if ``norm_pix``."""
        patches = self.patchify(images)
        if not self.norm_pix:
            return patches
        mean, std = self.patch_statistics(patches)
        return (patches - mean) / std

    @staticmethod
    def patch_statistics(patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (B, N, 1), of patches (B, N, P * P * C)."""
        variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
        return mean, (variance + _VARIANCE_EPS).sqrt()

    def loss(self, pred: Tensor, images: Tensor, target: Tensor, predicted: Tensor) -> Tensor:
        """Compute the loss of predictions.

        Args:
            pred: Predicted patches (B, T, P * P * C).
            images: Normalised images (B, C, H, W).
            target: Which patch each prediction is for, as places in raster order (B, T).
            predicted: Which predictions count (B, T), bool.

        Returns:
            Mean squared error over all numbers of all patches that count, a scalar.
        """
        wide = torch.promote_types(images.dtype, torch.float32)  # half precision is too coarse for a patch's statistics
        truth = self.target(images.to(wide))
        truth = truth.gather(1, target[..., None].expand(-1, -1, truth.shape[2]))
        error = (pred.to(wide) - truth).square().mean(dim=-1)  # (B, T)
        return (error * predicted).sum() / predicted.sum()
