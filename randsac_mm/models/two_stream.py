"""The two-stream baseline without a decoder: the encoder's own weights predict (paper appendix A.3, after XLNet)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from randsac_mm.registry import register
from randsac_mm.segments import Layout

from .algorithm import RandSAC
from .layers import run_layer
from .positions import sincos_positions


@register('MODELS')
class TwoStreamRandSAC(RandSAC):
    """RandSAC with a second stream of tokens through the encoder layers instead of a decoder.

    The content stream holds patches and positions and follows the source mask. The query stream holds positions only
    and reads the content stream by the memory mask: strictly earlier segments. Tokens that are predicted jointly do not
    attend to each other, and both streams share all weights.

    Args as :class:`RandSAC`, without ``neck``.

    Paper:
        Appendix A.3 "Two-stream Transformer", Figure 5 left, Tables 10 and 11.
    """

    def predict(self, inputs: Tensor, layout: Layout, run: Callable[..., Tensor] = run_layer) -> Tensor:
        """See base class; layers run on two streams, which :func:`compile_model` compiles only as a whole."""
        layout = self._prepare(layout)
        backbone = self.backbone
        content = backbone.embed_source(inputs, layout)  # (B, S, D)
        grid = backbone.grid(*inputs.shape[2:])
        positions = sincos_positions(grid, backbone.embed_dims, inputs.device, backbone.trained_grid)
        query = positions[0, layout.target].to(content)  # (B, T, D)
        layers: list[Any] = list(backbone.layers)
        *others, last = layers
        for layer in others:
            query, content = layer.forward_streams(query, content, layout.memory_mask, layout.source_mask)
        query, _ = last.forward_streams(query, content, layout.memory_mask, None)  # its content is not read
        return self.head(backbone.ln1(query) if backbone.final_norm else query)

    @staticmethod
    def _build_decoder(neck: dict | None, encoder: nn.Module) -> None:
        if neck is not None:
            raise ValueError('TwoStreamRandSAC has no decoder: leave neck out of the config')
