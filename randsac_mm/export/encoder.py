"""What is exported: one encoder with its positions for one image size, and its features."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from randsac_mm.kernels import use_attention, use_linear
from randsac_mm.models import RandSACViT


class Features(NamedTuple):
    """Hold features of B images.

    Attributes:
        tokens: Tokens after the last layer and its norm, (B, N, D), in raster order.
        averaged: Their average, and the norm of the average if the encoder has one, (B, D).
    """

    tokens: Tensor
    averaged: Tensor


class Encoder(nn.Module):
    """Give tokens and their average from normalised images, by :class:`randsac_mm.models.RandSACViT` itself.

    Args:
        backbone: A backbone whose ``out_type`` is ``'raw'``.
        averaged_norm: The norm of the averaged tokens that a classifier with ``out_type='avg_featmap'`` has learned
            (``ln2``); None: there is none, as after pre-training.
    """

    def __init__(self, backbone: RandSACViT, averaged_norm: nn.LayerNorm | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.averaged_norm = averaged_norm

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images (B, C, H, W) to tokens (B, N, D) and features (B, D)."""
        tokens = self.backbone(images)[-1]
        averaged = tokens.mean(dim=1)
        return tokens, averaged if self.averaged_norm is None else self.averaged_norm(averaged)

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """Compute features with PyTorch's own kernels, whichever are in force for training."""
        with use_attention('sdpa'), use_linear('torch'):
            return Features(*self(images))

    def weights(self) -> dict[str, Tensor]:
        """Give all tensors under mmpretrain's names, float32, each with memory of its own."""
        state = dict(self.backbone.state_dict())
        if self.averaged_norm is not None:
            state |= {f'ln2.{key}': value for key, value in self.averaged_norm.state_dict().items()}
        return {key: value.detach().clone().contiguous() for key, value in state.items()}
