"""The decoder and its learned skip connections to all encoder layers (paper sections 4.1 and 4.2)."""

from collections.abc import Callable
from typing import Literal

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from randsac_mm.registry import register
from randsac_mm.segments import Layout

from .layers import DecoderLayer, LayerNorm, NormPosition, init_projections, run_layer
from .positions import sincos_positions

SkipInit = Literal['last', 'mean', 'normal']
MemoryNorm = Literal['none', 'before', 'after']


class SkipConnection(BaseModule):
    """Learned mix of the hidden states of all encoder layers for each decoder layer: Z^l = sum_k W[k, l] H^k.

    The sum runs over the encoder's layers, not its embedding, and has no bias and no softmax, as in the paper.

    Args:
        encoder_layers: Number of encoder layers, rows of W.
        decoder_layers: Number of decoder layers, columns of W.
        encoder_dims: Width D of the hidden states.
        init: First value of W, which the paper does not state. ``'mean'``: 1 / L_enc, so that all layers get gradients
            from the first step. ``'last'``: all weight on the last layer, as in the masked transformer without skips.
            ``'normal'``: independent normal numbers of variance 1 / L_enc.
        norm: Whether hidden states are normalised, which the paper does not state. ``'before'``: each H^k by a norm of
            its own, because the residual stream grows from layer to layer and deep layers would dominate. ``'none'``:
            no norm. ``'after'``: each Z^l by a norm of its own.

    Paper:
        Section 4.2, appendix A.3.
    """

    def __init__(
        self,
        encoder_layers: int,
        decoder_layers: int,
        encoder_dims: int,
        init: SkipInit = 'mean',
        norm: MemoryNorm = 'before',
    ) -> None:
        super().__init__()
        if init not in ('last', 'mean', 'normal'):
            raise ValueError(f"skip_init={init!r} must be 'last', 'mean' or 'normal'")
        if norm not in ('none', 'before', 'after'):
            raise ValueError(f"memory_norm={norm!r} must be 'none', 'before' or 'after'")
        self.norm = norm
        weight = torch.zeros(encoder_layers, decoder_layers)
        if init == 'last':
            weight[-1] = 1
        elif init == 'mean':
            weight += 1 / encoder_layers
        else:
            weight.normal_(std=encoder_layers**-0.5)
        self.weight = nn.Parameter(weight)
        norms = {'none': 0, 'before': encoder_layers, 'after': decoder_layers}[norm]
        self.norms = nn.ModuleList(LayerNorm(encoder_dims) for _ in range(norms))

    def forward(self, hidden: list[Tensor]) -> list[Tensor]:
        """Map hidden states H^1 .. H^L_enc, each (B, S, D), to memories Z^1 .. Z^L_dec, each (B, S, D)."""
        if self.norm == 'before':
            hidden = [norm(h) for norm, h in zip(self.norms, hidden, strict=True)]
        # One small matrix product; compiled code writes the norms straight into the stack.
        mixed = torch.einsum('kl,kbsd->lbsd', self.weight, torch.stack(hidden)).unbind(0)
        if self.norm == 'after':
            return [norm(z) for norm, z in zip(self.norms, mixed, strict=True)]
        return list(mixed)


@register('MODELS')
class RandSACDecoder(BaseModule):
    """Decoder whose input is positions alone: it predicts every segment from the memory of all earlier ones.

    Args:
        num_layers: Number of decoder layers L_dec.
        embed_dims: Width D of the decoder; it may differ from the encoder's.
        num_heads: Number of heads; it divides ``embed_dims``.
        encoder_dims: Width of the encoder. :class:`RandSAC` fills it in from its backbone.
        encoder_layers: Number of encoder layers L_enc, filled in likewise.
        feedforward_channels: Width of the feed-forward networks' hidden layers. Default: 4 D.
        qkv_bias: Whether queries, keys and values have a bias.
        skip: Whether decoder layers read a learned mix of all encoder layers (4.2), or all read the last one (4.1).
        skip_init: First value of the mix, see :class:`SkipConnection`.
        memory_norm: Normalisation of the mix, see :class:`SkipConnection`.
        norm_position: ``'pre'`` puts norms before each branch and one after the last layer, as in the encoder;
            ``'post'`` after each sum, as in Vaswani et al. The paper does not state it.
        with_cp: Whether training recomputes the inside of each layer in the backward pass instead of storing it.
        init_cfg: Initialisation from a checkpoint, as in mmengine. Without it the weights are Xavier uniform.

    Raises:
        ValueError: If sizes do not fit each other or an option is unknown.

    Paper:
        Section 4.1 "Autoregressive Segment Decoder", section 4.2, appendix A.3.
    """

    def __init__(
        self,
        num_layers: int,
        embed_dims: int,
        num_heads: int,
        encoder_dims: int,
        encoder_layers: int,
        feedforward_channels: int | None = None,
        qkv_bias: bool = True,
        skip: bool = True,
        skip_init: SkipInit = 'mean',
        memory_norm: MemoryNorm = 'before',
        norm_position: NormPosition = 'pre',
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if num_layers < 1:
            raise ValueError(f'num_layers={num_layers} must be at least 1')
        sincos_positions((1, 1), embed_dims)  # raises before the first step if positions cannot be that wide
        self.num_layers = num_layers
        self.embed_dims = embed_dims
        self.encoder_dims = encoder_dims
        self.encoder_layers = encoder_layers
        self.with_cp = with_cp
        self.skip = SkipConnection(encoder_layers, num_layers, encoder_dims, skip_init, memory_norm) if skip else None
        hidden_dims = feedforward_channels or 4 * embed_dims
        self.layers = nn.ModuleList(
            DecoderLayer(embed_dims, encoder_dims, num_heads, hidden_dims, qkv_bias, norm_position)
            for _ in range(num_layers)
        )
        self.ln = LayerNorm(embed_dims) if norm_position == 'pre' else nn.Identity()
        init_projections(self.layers)

    def forward(
        self,
        hidden: list[Tensor],
        layout: Layout,
        grid: tuple[int, int],
        trained_grid: tuple[int, int] | None = None,
        run: Callable[..., Tensor] = run_layer,
    ) -> Tensor:
        """Decode the target tokens of a layout.

        Args:
            hidden: Hidden states H^1 .. H^L_enc of the encoder, each (B, S, D_enc).
            layout: Which T tokens to predict, and the masks.
            grid: Height and width of the token grid.
            trained_grid: Grid to which coordinates are stretched, see :func:`sincos_positions`.
            run: The function :func:`run_layer`, or its compiled code.

        Returns:
            Decoded tokens (B, T, D), normalised, ready for the head.
        """
        mix: Callable = run_layer if hidden[0].device.type == 'cpu' else run  # on a CPU eager code is as fast
        memory = [hidden[-1]] * self.num_layers if self.skip is None else mix(self.skip, False, hidden)
        positions = sincos_positions(grid, self.embed_dims, memory[0].device, trained_grid)
        x = positions[0, layout.target]  # (B, T, D), no content
        x = x.to(hidden[0].dtype)  # the encoder's residual stream, not the memory, which autocast may have changed
        if run is not run_layer and torch.is_grad_enabled():
            x.requires_grad_()  # as the input of the other layers, so that they all share one compiled code
        for layer, z in zip(self.layers, memory, strict=True):
            x = run(layer, self.with_cp, x, z, layout.target_mask, layout.memory_mask)
        return self.ln(x)
