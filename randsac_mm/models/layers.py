"""Attention, and what layers are made of. The only file that calls attention kernels.

Masks are additive biases here (0 = may attend, minus infinity = may not), made once a step by
:func:`randsac_mm.segments.additive`. Tokens: (B, N, D); heads: h of d = D / h dims each.
"""

from typing import Literal

import torch.nn.functional as F
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn

from .relative_position import relative_bias, zero_table

NormPosition = Literal['pre', 'post']
EPS = 1e-6  # of every layer norm, as in mmpretrain's and MAE's ViT


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """Attend with scaled dot products.

    Args:
        query: Queries (B, h, Q, d).
        key: Keys (B, h, N, d).
        value: Values (B, h, N, d).
        bias: What is added to the logits, (B or 1, h or 1, Q or 1, N). Every row must leave something to attend to.
            With None nothing of size Q x N is ever stored.

    Returns:
        Attended values (B, Q, h * d), heads side by side.
    """
    if bias is not None and bias.dtype != query.dtype:
        bias = bias.to(query.dtype)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias).transpose(1, 2).flatten(2)


def _check_heads(embed_dims: int, num_heads: int) -> None:
    if embed_dims % num_heads:
        raise ValueError(f'embed_dims={embed_dims} is not divisible by num_heads={num_heads}: heads need equal widths')


def _split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """Cut the output of a joint projection (B, N, parts * D) into ``parts`` tensors (B, h, N, d)."""
    return x.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def init_projections(module: nn.Module) -> None:
    """Initialise all linear layers below ``module``: Xavier uniform weights, zero biases, as MAE's and BEiT's ViT.

    Done when modules are made, never in ``init_weights``: what a checkpoint has filled must not be drawn again. Joint
    projections (``qkv``, ``kv``) are drawn as the separate square matrices they stand for.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            parts = {'qkv': 3, 'kv': 2}.get(name.rpartition('.')[2], 1)
            for weight in layer.weight.chunk(parts):
                nn.init.xavier_uniform_(weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class PatchEmbed(BaseModule):
    """Project patches of pixels to tokens; one weight, read as a convolution or as a matrix.

    Args:
        in_channels: Number of image channels C.
        embed_dims: Width D of the tokens.
        patch_size: Side P of a patch, in pixels.
    """

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        nn.init.xavier_uniform_(self.projection.weight.view(embed_dims, -1))  # as the linear layer that it is
        nn.init.zeros_(self.projection.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) to tokens (B, N, D) in raster order."""
        return self.projection(images).flatten(2).transpose(1, 2)

    def forward_some(self, images: Tensor, places: Tensor) -> Tensor:
        """Embed only some patches: map images (B, C, H, W) and places in raster order (B, S) to tokens (B, S, D)."""
        p = self.patch_size
        patches = images.unflatten(3, (-1, p)).unflatten(2, (-1, p))  # (B, C, h, P, w, P)
        patches = patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)  # (B, N, C * P * P)
        some = patches.gather(1, places[..., None].expand(-1, -1, patches.shape[2]))
        return F.linear(some, self.projection.weight.flatten(1), self.projection.bias)


class SelfAttention(BaseModule):
    """Attend among tokens of one sequence; parameter names and numbers of mmpretrain's ``MultiheadAttention``.

    Args:
        embed_dims: Width D.
        num_heads: Number of heads; it divides D.
        qkv_bias: Whether queries, keys and values have a bias.
        bias_grid: Rows and columns of tokens that a relative position bias of its own is made for. None: no such bias.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = True,
        bias_grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        _check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.bias_grid = bias_grid
        self.relative_position_bias_table = zero_table(bias_grid, num_heads) if bias_grid else None
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def relative_bias(self, grid: tuple[int, int]) -> Tensor | None:
        """Make this layer's relative position bias (1, h, N, N) for a grid of N tokens; None if it has none."""
        if self.bias_grid is None:
            return None
        return relative_bias(self.relative_position_bias_table, self.bias_grid, grid)[None]

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D); ``bias`` as in :func:`attention`, with everything that is to be added."""
        return self.proj(attention(*_split_heads(self.qkv(x), 3, self.num_heads), bias))

    def forward_query(self, query: Tensor, content: Tensor, bias: Tensor) -> Tensor:
        """Attend from another stream with the same weights (two-stream baseline, A.3).

        Args:
            query: Tokens that ask (B, T, D).
            content: Tokens that are read (B, S, D).
            bias: As in :func:`attention`, (B or 1, 1, T, S).

        Returns:
            Attended tokens (B, T, D).
        """
        dims = query.shape[2]
        weight, offset = self.qkv.weight, self.qkv.bias
        q = F.linear(query, weight[:dims], None if offset is None else offset[:dims])
        kv = F.linear(content, weight[dims:], None if offset is None else offset[dims:])
        (q,), (k, v) = _split_heads(q, 1, self.num_heads), _split_heads(kv, 2, self.num_heads)
        return self.proj(attention(q, k, v, bias))


class CrossAttention(BaseModule):
    """Attend from decoder tokens to the encoder's memory.

    Args:
        embed_dims: Width D of the decoder.
        memory_dims: Width of the memory; it may differ from D.
        num_heads: Number of heads; it divides D.
        qkv_bias: Whether queries, keys and values have a bias.

    Raises:
        ValueError: If the heads do not divide the width.
    """

    def __init__(self, embed_dims: int, memory_dims: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        _check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.kv = nn.Linear(memory_dims, 2 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor | None) -> Tensor:
        """Map (B, T, D) to (B, T, D), reading ``memory`` (B, S, memory_dims); ``bias`` (B or 1, 1, T, S)."""
        (q,), (k, v) = _split_heads(self.q(x), 1, self.num_heads), _split_heads(self.kv(memory), 2, self.num_heads)
        return self.proj(attention(q, k, v, bias))


class FeedForward(BaseModule):
    """Two linear layers with a GELU between them; parameter names of mmcv's ``FFN``.

    Args:
        embed_dims: Width D.
        feedforward_channels: Width of the hidden layer.
    """

    def __init__(self, embed_dims: int, feedforward_channels: int) -> None:
        super().__init__()
        hidden = nn.Sequential(nn.Linear(embed_dims, feedforward_channels), nn.GELU())
        self.layers = nn.Sequential(hidden, nn.Linear(feedforward_channels, embed_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        return self.layers(x)


class DecoderLayer(BaseModule):
    """One decoder layer: self-attention, cross-attention, feed-forward network.

    Args:
        embed_dims: Width D of the decoder.
        memory_dims: Width of the memory.
        num_heads: Number of heads; it divides D.
        feedforward_channels: Width of the hidden layer of the feed-forward network.
        drop_path_rate: Probability of leaving a branch out for an image during training.
        qkv_bias: Whether queries, keys and values have a bias.
        norm_position: ``'pre'``: norms at the entrance of each branch. ``'post'``: after each sum, as in Vaswani et al.

    Raises:
        ValueError: If the heads do not divide the width, or ``norm_position`` is neither word.
    """

    def __init__(
        self,
        embed_dims: int,
        memory_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        norm_position: NormPosition = 'pre',
    ) -> None:
        super().__init__()
        if norm_position not in ('pre', 'post'):
            raise ValueError(f"norm_position={norm_position!r} must be 'pre' or 'post'")
        self.pre = norm_position == 'pre'
        self.ln1 = nn.LayerNorm(embed_dims, eps=EPS)
        self.self_attn = SelfAttention(embed_dims, num_heads, qkv_bias)
        self.ln2 = nn.LayerNorm(embed_dims, eps=EPS)
        self.cross_attn = CrossAttention(embed_dims, memory_dims, num_heads, qkv_bias)
        self.ln3 = nn.LayerNorm(embed_dims, eps=EPS)
        self.ffn = FeedForward(embed_dims, feedforward_channels)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, memory: Tensor, target_bias: Tensor, memory_bias: Tensor) -> Tensor:
        """Decode one layer further.

        Args:
            x: Target tokens (B, T, D).
            memory: What this layer reads of the encoder (B, S, memory_dims).
            target_bias: Bias of the self-attention (B or 1, 1, T, T).
            memory_bias: Bias of the cross-attention (B or 1, 1, T, S).

        Returns:
            Target tokens (B, T, D).
        """
        branches = (
            (self.ln1, lambda y: self.self_attn(y, target_bias)),
            (self.ln2, lambda y: self.cross_attn(y, memory, memory_bias)),
            (self.ln3, self.ffn),
        )
        for norm, branch in branches:
            x = x + self.drop_path(branch(norm(x))) if self.pre else norm(x + self.drop_path(branch(x)))
        return x
