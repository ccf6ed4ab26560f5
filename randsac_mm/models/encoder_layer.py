"""One layer of the encoder: masked for pre-training, in windows or with position biases for transfer."""

import torch
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from .layers import EPS, FeedForward, SelfAttention
from .windows import merge, partition


class EncoderLayer(BaseModule):
    """One pre-norm ViT layer: mmpretrain's in keys and numbers, with an optional mask.

    Args:
        embed_dims: Width D.
        num_heads: Number of heads h; it divides D.
        feedforward_channels: Width of the hidden layer of the feed-forward network.
        drop_path_rate: Probability of leaving a branch out for an image during training.
        qkv_bias: Whether queries, keys and values have a bias.
        layer_scale: What both branches are multiplied with at first, one learned number per channel (``gamma_1`` and
            ``gamma_2``, as in BEiT). 0: no such factors.
        window_size: Side S of the windows that tokens attend in, in tokens. 0: all tokens attend to all.
        bias_grid: Rows and columns of tokens that a relative position bias of this layer is made for. None: no bias.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        layer_scale: float = 0.0,
        window_size: int = 0,
        bias_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.window_size = window_size
        self.ln1 = nn.LayerNorm(embed_dims, eps=EPS)
        self.attn = SelfAttention(embed_dims, num_heads, qkv_bias, bias_grid)
        self.ln2 = nn.LayerNorm(embed_dims, eps=EPS)
        self.ffn = FeedForward(embed_dims, feedforward_channels)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()
        self.gamma_1 = nn.Parameter(torch.full((embed_dims,), layer_scale)) if layer_scale else None
        self.gamma_2 = nn.Parameter(torch.full((embed_dims,), layer_scale)) if layer_scale else None

    def forward(self, x: Tensor, bias: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Advance tokens one layer.

        Args:
            x: Tokens (B, N, D).
            bias: What is added to the logits, (B or 1, h or 1, N or 1, N); with windows of S x S tokens, W of them in
                each image, (B * W or 1, h or 1, S * S or 1, S * S).
            grid: Rows and columns of whole images whose N tokens come in raster order. None, for tokens of any choice
                and order, in layers without windows and position bias.

        Returns:
            Tokens (B, N, D).
        """
        x = x + self._branch(self._attend(self.ln1(x), bias, grid), self.gamma_1)
        return x + self._branch(self.ffn(self.ln2(x)), self.gamma_2)

    def forward_query(self, query: Tensor, content: Tensor, bias: Tensor) -> Tensor:
        """Advance the query stream (B, T, D) by reading the content stream (B, S, D) that entered this layer (A.3)."""
        query = query + self._branch(self.attn.forward_query(self.ln1(query), self.ln1(content), bias), self.gamma_1)
        return query + self._branch(self.ffn(self.ln2(query)), self.gamma_2)

    def _attend(self, x: Tensor, bias: Tensor | None, grid: tuple[int, int] | None) -> Tensor:
        if grid is None:
            assert not self.window_size, 'windows are cut from whole grids'
            assert self.attn.bias_grid is None, 'relative positions exist in whole grids'
            return self.attn(x, bias)
        size = self.window_size
        own = self.attn.relative_bias((size, size) if size else grid)
        if own is not None:
            bias = own if bias is None else bias + own
        if not size:
            return self.attn(x, bias)
        return merge(self.attn(partition(x, grid, size), bias), grid, size)

    def _branch(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        return self.drop_path(x if gamma is None else gamma * x)
