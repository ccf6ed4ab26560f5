"""The two-stream baseline: no decoder, the encoder's own weights predict (paper appendix A.3, after XLNet)."""

from torch import Tensor

from randsac_mm.registry import register
from randsac_mm.segments import Layout

from .algorithm import RandSAC
from .layers import attention_mask
from .positions import sincos_positions


@register('MODELS')
class TwoStreamRandSAC(RandSAC):
    """Predict segments with a second stream of tokens through the same encoder layers.

    The content stream holds patches and positions and follows the source mask. The query stream holds positions only
    and reads the content stream by the memory mask: strictly earlier segments. Tokens that are predicted jointly do not
    see each other, and both streams share all weights.

    Args:
        backbone: Config of the encoder, a :class:`RandSACViT`.
        head: Config of the :class:`RandSACHead`; its ``embed_dims`` is the backbone's.
        data_preprocessor: Config of the :class:`RandSACDataPreprocessor`.
        neck: Must be None.
        init_cfg: Initialisation from a checkpoint, as in mmengine.

    Raises:
        ValueError: As :class:`RandSAC`, and if there is a neck.

    Paper:
        Appendix A.3 "Two-stream Transformer", Figure 5 left, Tables 10 and 11.
    """

    def predict(self, inputs: Tensor, layout: Layout) -> Tensor:
        """See base class."""
        backbone = self.backbone
        content = backbone.embed_source(inputs, layout)  # (B, S, D)
        grid = backbone.grid(*inputs.shape[2:])
        query = sincos_positions(grid, backbone.embed_dims, inputs.device)[0, layout.target].to(content)  # (B, T, D)
        source_mask, memory_mask = (attention_mask(m, content) for m in (layout.source_mask, layout.memory_mask))
        *others, last = backbone.layers
        for layer in others:
            query, content = layer.forward_streams(query, content, memory_mask, source_mask)
        query, _ = last.forward_streams(query, content, memory_mask, None)  # nobody reads the last layer's content
        return self.head(backbone.ln1(query) if backbone.final_norm else query)

    def _decoder_pairs(self, neck: object, head: object, backbone: object) -> list[tuple[str, int, str, int]]:
        if neck is not None:
            raise ValueError('TwoStreamRandSAC has no decoder: leave neck out of the config')
        return [('head.embed_dims', head.embed_dims, 'backbone.embed_dims', backbone.embed_dims)]
