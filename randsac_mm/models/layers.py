"""Layers of encoder and decoder. Attention and linear maps run on :mod:`randsac_mm.kernels`.

Shapes: B images, N tokens of D dims; h heads of d = D / h dims. Arguments of all layers: ``embed_dims`` is D,
``memory_dims`` the width of the encoder, ``num_heads`` is h and divides D, ``feedforward_channels`` the width of the
feed-forward network's hidden layer; with ``qkv_bias`` queries, keys and values have a bias.
"""

from typing import Any, Literal

import torch
from mmcv.cnn.bricks.drop import DropPath
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from randsac_mm.kernels import attention, linear
from randsac_mm.segments import Mask

NormPosition = Literal['pre', 'post']


class LayerNorm(nn.LayerNorm):
    """Layer norm of tokens (..., D) with the epsilon of mmpretrain's and MAE's ViT, which keeps the type of its input.

    It computes in the wider type of input and weight: on a CPU PyTorch's sums gradients of the weight in bfloat16.
    """

    def __init__(self, embed_dims: int) -> None:
        super().__init__(embed_dims, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise tokens (..., D)."""
        return super().forward(x.to(torch.promote_types(x.dtype, self.weight.dtype))).to(x.dtype)


def run_layer(layer: nn.Module, with_cp: bool, *args: object) -> Tensor:
    """Run a layer; with ``with_cp``, in training, its inside is recomputed in the backward pass.

    :func:`randsac_mm.engine.compile_model` compiles this function: layers that are alike share one compiled code.
    """
    if with_cp and layer.training and torch.is_grad_enabled():
        return checkpoint(layer, *args, use_reentrant=False)
    return layer(*args)


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Map (..., D_in) to (..., D_out) by :func:`randsac_mm.kernels.linear`.

    A layer that is more than its weight and bias, as an adapter in its place or one with hooks, is called as it is.
    """
    if type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks):
        return linear(x, layer.weight, layer.bias)
    return layer(x)


def _check_heads(embed_dims: int, num_heads: int) -> None:
    if embed_dims % num_heads:
        raise ValueError(f'embed_dims={embed_dims} is not divisible by num_heads={num_heads}')


def _split_heads(x: Tensor, parts: int, num_heads: int) -> tuple[Tensor, ...]:
    """Split the output of a joint projection (B, N, parts * D) into ``parts`` tensors (B, h, N, d)."""
    return x.unflatten(2, (parts, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


def init_projections(module: nn.Module) -> None:
    """Initialise all linear layers below ``module``: Xavier uniform weights, zero biases, as MAE's and BEiT's ViT.

    Called when modules are made, not in ``init_weights``, so that weights of a checkpoint are not drawn again. Joint
    projections (``qkv``, ``kv``) are drawn as separate square matrices.
    """
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            parts = {'qkv': 3, 'kv': 2}.get(name.rpartition('.')[2], 1)
            for weight in layer.weight.chunk(parts):
                nn.init.xavier_uniform_(weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class PatchEmbed(BaseModule):
    """Linear projection of patches of P x P pixels to tokens; one weight, applied as a convolution or as a matrix."""

    def __init__(self, in_channels: int, embed_dims: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Conv2d(in_channels, embed_dims, patch_size, patch_size)
        nn.init.xavier_uniform_(self.projection.weight.view(embed_dims, -1))  # as the linear layer that it is
        if self.projection.bias is not None:
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
        return linear(some, self.projection.weight.flatten(1), self.projection.bias)


class SelfAttention(BaseModule):
    """Multi-head self-attention; parameter names and numbers of mmpretrain's ``MultiheadAttention``."""

    def __init__(self, embed_dims: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        _check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Map (B, N, D) to (B, N, D); None as ``mask``: every token attends to every token."""
        q, k, v = _split_heads(apply_linear(self.qkv, x), 3, self.num_heads)
        return apply_linear(self.proj, attention(q, k, v, mask))

    def forward_streams(
        self, query: Tensor, content: Tensor, memory_mask: Mask, source_mask: Mask | None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from queries (B, T, D) and content (B, S, D) to the content (two-stream baseline, A.3).

        Without ``source_mask`` the content does not attend, and None is returned for it.
        """
        dims = query.shape[2]
        weight, offset = self.qkv.weight, self.qkv.bias
        q_offset, kv_offset = (None, None) if offset is None else offset.split((dims, 2 * dims))
        (q,) = _split_heads(linear(query, weight[:dims], q_offset), 1, self.num_heads)
        if source_mask is None:
            k, v = _split_heads(linear(content, weight[dims:], kv_offset), 2, self.num_heads)
            return apply_linear(self.proj, attention(q, k, v, memory_mask)), None
        own, k, v = _split_heads(apply_linear(self.qkv, content), 3, self.num_heads)  # keys and values for both
        asked, read = attention(q, k, v, memory_mask), attention(own, k, v, source_mask)
        return apply_linear(self.proj, asked), apply_linear(self.proj, read)


class CrossAttention(BaseModule):
    """Multi-head attention of decoder tokens to the encoder's memory, whose width may differ from D."""

    def __init__(self, embed_dims: int, memory_dims: int, num_heads: int, qkv_bias: bool = True) -> None:
        super().__init__()
        _check_heads(embed_dims, num_heads)
        self.num_heads = num_heads
        self.q = nn.Linear(embed_dims, embed_dims, bias=qkv_bias)
        self.kv = nn.Linear(memory_dims, 2 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, memory: Tensor, mask: Mask) -> Tensor:
        """Map (B, T, D) and ``memory`` (B, S, memory_dims) to (B, T, D); ``mask`` of T queries and S keys."""
        (q,) = _split_heads(apply_linear(self.q, x), 1, self.num_heads)
        k, v = _split_heads(apply_linear(self.kv, memory), 2, self.num_heads)
        return apply_linear(self.proj, attention(q, k, v, mask))


class FeedForward(BaseModule):
    """Feed-forward network of two linear layers and a GELU; parameter names of mmcv's ``FFN``."""

    def __init__(self, embed_dims: int, feedforward_channels: int) -> None:
        super().__init__()
        hidden = nn.Sequential(nn.Linear(embed_dims, feedforward_channels), nn.GELU())
        self.layers: Any = nn.Sequential(hidden, nn.Linear(feedforward_channels, embed_dims))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, N, D) to (B, N, D)."""
        hidden, narrow = self.layers[0], self.layers[1]
        return apply_linear(narrow, hidden[1](apply_linear(hidden[0], x)))


class EncoderLayer(BaseModule):
    """One pre-norm ViT layer; parameter names and numbers of mmpretrain's, with an optional mask.

    ``drop_path_rate`` is the probability of skipping a branch for an image during training.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
    ) -> None:
        super().__init__()
        self.ln1 = LayerNorm(embed_dims)
        self.attn = SelfAttention(embed_dims, num_heads, qkv_bias)
        self.ln2 = LayerNorm(embed_dims)
        self.ffn = FeedForward(embed_dims, feedforward_channels)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate else nn.Identity()

    def forward(self, x: Tensor, mask: Mask | None = None) -> Tensor:
        """Map tokens (B, N, D) to tokens (B, N, D); ``mask`` of N queries and N keys."""
        return self._add_branches(x, self.attn(self.ln1(x), mask))

    def forward_streams(
        self, query: Tensor, content: Tensor, memory_mask: Mask, source_mask: Mask | None
    ) -> tuple[Tensor, Tensor | None]:
        """Run the layer on both streams of the two-stream baseline, see :meth:`SelfAttention.forward_streams`."""
        asked, read = self.attn.forward_streams(self.ln1(query), self.ln1(content), memory_mask, source_mask)
        return self._add_branches(query, asked), None if read is None else self._add_branches(content, read)

    def _add_branches(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.ffn(self.ln2(x)))


class DecoderLayer(BaseModule):
    """One decoder layer: self-attention, cross-attention, feed-forward network.

    ``norm_position``: ``'pre'``: norms before each branch; ``'post'``: after each sum, as in Vaswani et al.
    """

    def __init__(
        self,
        embed_dims: int,
        memory_dims: int,
        num_heads: int,
        feedforward_channels: int,
        qkv_bias: bool = True,
        norm_position: NormPosition = 'pre',
    ) -> None:
        super().__init__()
        if norm_position not in ('pre', 'post'):
            raise ValueError(f"norm_position={norm_position!r} must be 'pre' or 'post'")
        self.pre = norm_position == 'pre'
        self.ln1 = LayerNorm(embed_dims)
        self.self_attn = SelfAttention(embed_dims, num_heads, qkv_bias)
        self.ln2 = LayerNorm(embed_dims)
        self.cross_attn = CrossAttention(embed_dims, memory_dims, num_heads, qkv_bias)
        self.ln3 = LayerNorm(embed_dims)
        self.ffn = FeedForward(embed_dims, feedforward_channels)

    def forward(self, x: Tensor, memory: Tensor, target_mask: Mask, memory_mask: Mask) -> Tensor:
        """Map target tokens (B, T, D) to target tokens; ``memory`` is the mix of encoder states (B, S, memory_dims)."""
        branches = (
            (self.ln1, lambda y: self.self_attn(y, target_mask)),
            (self.ln2, lambda y: self.cross_attn(y, memory, memory_mask)),
            (self.ln3, self.ffn),
        )
        for norm, branch in branches:
            x = x + branch(norm(x)) if self.pre else norm(x + branch(x))
        return x
