"""One layer of the encoder: masked for pre-training, in windows or with position biases for transfer."""

import torch
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from randsac_mm.kernels import Mask

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

    def forward(self, x: Tensor, mask: Mask | Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """Advance tokens one layer.

        Args:
            x: Tokens (B, N, D).
            mask: A mask of N queries and N keys; or what is added to the logits, (B or 1, h or 1, N or 1, N), with
                windows of S x S tokens, W of them in each image, (B * W or 1, h or 1, S * S or 1, S * S).
            grid: Rows and columns of whole images whose N tokens come in raster order. None, for tokens of any choice
                and order, in layers without windows and position bias.

        Returns:
            Tokens (B, N, D).
        """
        return self._rest(x, self._attend(self.ln1(x), mask, grid))

    def forward_streams(
        self, query: Tensor, content: Tensor, memory_mask: Mask, source_mask: Mask | None
    ) -> tuple[Tensor, Tensor | None]:
        """Advance two streams that both read the content that enters this layer (two-stream baseline, A.3).

        Args:
            query: Query stream (B, T, D).
            content: Content stream (B, S, D).
            memory_mask: What queries may read, T queries and S keys.
            source_mask: What the content may read, S queries and S keys; None if nobody needs its next state.

        Returns:
            The advanced streams; None for content that nobody needs.
        """
        asked, read = self.attn.forward_streams(self.ln1(query), self.ln1(content), memory_mask, source_mask)
        return self._rest(query, asked), None if read is None else self._rest(content, read)

    def _rest(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self._branch(attended, self.gamma_1)
        return x + self._branch(self.ffn(self.ln2(x)), self.gamma_2)

    def _attend(self, x: Tensor, mask: Mask | Tensor | None, grid: tuple[int, int] | None) -> Tensor:
        if grid is None:
            assert not self.window_size, 'windows are cut from whole grids'
            assert self.attn.bias_grid is None, 'relative positions exist in whole grids'
            return self.attn(x, mask)
        size = self.window_size
        own = self.attn.relative_bias((size, size) if size else grid)
        if own is not None:
            mask = own if mask is None else mask + own
        if not size:
            return self.attn(x, mask)
        return merge(self.attn(partition(x, grid, size), mask), grid, size)

    def _branch(self, x: Tensor, gamma: Tensor | None) -> Tensor:
        return self.drop_path(x if gamma is None else gamma * x)
