"""The encoder: a plain ViT for transfer, a block-causal one for pre-training (paper section 4.1)."""

from collections.abc import Sequence

from torch import Tensor, nn

from randsac_mm.registry import register
from randsac_mm.segments import Layout
from randsac_mm.transfer.strict_loading import strict_init_cfg

from .embedding import ViTEmbedding
from .encoder_layer import EncoderLayer
from .layers import EPS, advance, attention_mask, init_projections
from .options import arch_settings, choose_method, layer_indices, window_layers
from .relative_position import RelativePositionBias
from .windows import padding_bias

_OUT_TYPES = ('raw', 'featmap', 'avg_featmap')


@register('MODELS')
class RandSACViT(ViTEmbedding):
    """Encode images with a Vision Transformer without class token.

    :meth:`forward` is mmpretrain's ``VisionTransformer`` in parameter names and numbers, so a checkpoint needs no
    conversion; :meth:`encode` is the pre-training view of the same weights. The defaults are the paper's plain ViT
    with fixed sine-cosine positions; windows, position biases and the ``method`` of somebody else's checkpoint are for
    transfer.

    Args:
        arch: Name in mmpretrain's zoo (``'deit-tiny'``, ``'deit-small'``, ``'base'``, ``'large'``, ...; its ``'small'``
            is 768 wide, not the ViT-S of the paper) or a dict with ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``feedforward_channels``.
        img_size: Usual height and width in pixels, one number or two. Other sizes are accepted at any time.
        patch_size: Side P of a patch, in pixels.
        in_channels: Number of image channels C.
        out_indices: Layers whose output :meth:`forward` returns; negative ones count from the end. ``'segmentation'``
            and ``'detection'`` choose four by :func:`randsac_mm.transfer.pyramid_indices`.
        out_type: ``'featmap'`` (B, D, H / P, W / P), ``'raw'`` (B, N, D) or ``'avg_featmap'`` (B, D), the normalised
            average of all tokens.
        drop_path_rate: Probability of leaving out a branch of the last layer, growing linearly from 0 at the first.
        qkv_bias: Whether queries, keys and values have a bias.
        final_norm: Whether the last layer's output is normalised. None: if the method's checkpoints have that norm.
        frozen_stages: Number of layers, from the input, that are not trained; -1: none, 0: only the patch embedding
            and positions. A bias that all layers share is frozen with the first of them.
        with_cp: Whether training computes the inside of each layer again for the gradient, instead of storing it.
        window_size: Side in tokens of the windows that layers attend in, as in ViTDet. 0: every token sees all.
        global_layers: With windows, the layers that see the whole image; negative ones count from the end. None: the
            ends of four equal groups.
        rel_pos_bias: Relative position bias as in BEiT, of each ``'layer'`` or ``'shared'`` by all. None: as the
            method has it. At 4,096 tokens each matrix is 0.8 GB; see :mod:`randsac_mm.models.relative_position`.
        method: Whose checkpoints it can read: ``'randsac'``, or mmpretrain's ``'mae'``, ``'beitv2'``, ``'mocov3'``,
            ``'maskfeat'``, ``'cae'`` and ``'deit'``, converted by :func:`randsac_mm.transfer.peers.convert`. Decides
            on positions, layer scale and relative position bias.
        init_cfg: Initialisation from a checkpoint, as in mmengine. Without it the weights are Xavier uniform.

    Raises:
        ValueError: If a choice or a size is not possible.

    Paper:
        Section 4.1, "Autoregressive Segment Encoder".

    Example:
        >>> vit = RandSACViT(arch='deit-tiny', img_size=32, patch_size=4)
        >>> import torch
        >>> vit(torch.zeros(2, 3, 32, 48))[0].shape
        torch.Size([2, 192, 8, 12])
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | Sequence[int] = 224,
        patch_size: int = 16,
        in_channels: int = 3,
        out_indices: int | str | Sequence[int] = -1,
        out_type: str = 'featmap',
        drop_path_rate: float = 0.0,
        qkv_bias: bool = True,
        final_norm: bool | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        window_size: int = 0,
        global_layers: int | Sequence[int] | None = None,
        rel_pos_bias: str | None = None,
        method: str = 'randsac',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        settings, traits = arch_settings(arch), choose_method(method)
        super().__init__(settings['embed_dims'], img_size, patch_size, in_channels, traits, init_cfg)
        self.method = method
        self.num_layers = settings['num_layers']
        self.out_indices = layer_indices('out_indices', out_indices, self.num_layers)
        if out_type not in _OUT_TYPES:
            raise ValueError(f'out_type={out_type!r} must be one of {_OUT_TYPES}: there is no class token')
        self.out_type = out_type
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(f'frozen_stages={frozen_stages} must lie between -1 and num_layers={self.num_layers}')
        self.frozen_stages = frozen_stages
        self.with_cp = with_cp
        self.window_size = window_size
        self.windowed = windowed = window_layers(window_size, global_layers, self.num_layers)
        if rel_pos_bias not in (None, 'layer', 'shared'):
            raise ValueError(f"rel_pos_bias={rel_pos_bias!r} must be 'layer', 'shared' or None")
        rel_pos_bias = rel_pos_bias or traits.rel_pos_bias
        self._biased = rel_pos_bias is not None

        # A table that is also used in windows is made for these, so that one pre-trained at their size fits as it is.
        window, whole = (window_size, window_size), self.patch_resolution
        self.rel_pos_bias = None
        if rel_pos_bias == 'shared':
            self.rel_pos_bias = RelativePositionBias(window if windowed else whole, settings['num_heads'])
        last = max(self.num_layers - 1, 1)
        self.layers = nn.ModuleList(
            EncoderLayer(
                self.embed_dims,
                settings['num_heads'],
                settings['feedforward_channels'],
                drop_path_rate=drop_path_rate * i / last,
                qkv_bias=qkv_bias,
                layer_scale=traits.layer_scale,
                window_size=window_size if i in windowed else 0,
                bias_grid=(window if i in windowed else whole) if rel_pos_bias == 'layer' else None,
            )
            for i in range(self.num_layers)
        )
        self.final_norm = traits.final_norm if final_norm is None else final_norm
        if self.final_norm:
            self.ln1 = nn.LayerNorm(self.embed_dims, eps=EPS)
        if out_type == 'avg_featmap':
            self.ln2 = nn.LayerNorm(self.embed_dims, eps=EPS)
        init_projections(self.layers)
        self._freeze()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features of whole images, without any mask.

        Args:
            images: Normalised images (B, C, H, W); H and W are multiples of the patch size.

        Returns:
            One tensor per entry of ``out_indices``, shaped as ``out_type`` says.

        Raises:
            ValueError: If the number of channels or the image size does not fit.
        """
        grid = self.grid_of(images)
        x = self.embed(images)
        whole, inside = self._biases(grid, x)
        outs = []
        for i, layer in enumerate(self.layers):
            x = advance(layer, self.with_cp, x, inside if layer.window_size else whole, grid)
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format(x, grid))
        return tuple(outs)

    def encode(self, images: Tensor, layout: Layout) -> list[Tensor]:
        """Encode serialized tokens: each sees its own segment and earlier ones.

        Args:
            images: Normalised images (B, C, H, W).
            layout: Which S tokens to encode, and their mask.

        Returns:
            The hidden states H^1 .. H^L of all layers, each (B, S, D), the last one normalised if ``final_norm``.

        Raises:
            ValueError: If the number of channels or the image size does not fit, or this is not the paper's plain ViT:
                windows and relative position biases need whole images, and other methods are for transfer only.

        Paper:
            Section 4.1, Figure 4 left.
        """
        x = self.embed_source(images, layout)
        mask = attention_mask(layout.source_mask, x)
        hidden = []
        for layer in self.layers:
            x = advance(layer, self.with_cp, x, mask)
            hidden.append(x)
        if self.final_norm:
            hidden[-1] = self.ln1(x)
        return hidden

    def embed_source(self, images: Tensor, layout: Layout) -> Tensor:
        """Embed the tokens that a layout lets into the encoder, H^0 (B, S, D); arguments as :meth:`encode`."""
        if self.method != 'randsac' or self.window_size or self._biased:
            raise ValueError(
                f"a backbone with method='{self.method}', window_size={self.window_size} or a relative position bias "
                "is for transfer: pre-train the plain ViT, with method='randsac', window_size=0, rel_pos_bias=None"
            )
        return super().embed_source(images, layout)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Tell how deep a parameter lies, for learning rates that decay from layer to layer.

        Args:
            param_name: Full name of the parameter.
            prefix: What stands before the backbone's own names, as ``'backbone.'``.

        Returns:
            Depth, from 0 for the patch embedding to ``num_layers + 1`` for whatever follows the layers, and
            ``num_layers + 2``, the number of depths.
        """
        depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if not param_name.startswith(prefix):
            return depths - 1, depths
        if name.startswith(('patch_embed.', 'pos_embed')):
            return 0, depths
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, depths
        return depths - 1, depths

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; ``'Pretrained'`` is :class:`randsac_mm.transfer.StrictPretrained` here."""
        self.init_cfg = strict_init_cfg(self.init_cfg)
        super().init_weights()

    def train(self, mode: bool = True) -> 'RandSACViT':
        """Set training mode; frozen layers stay in evaluation mode. Unlike its parents', returns the module."""
        super().train(mode)
        self._freeze()
        return self

    def _biases(self, grid: tuple[int, int], like: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Make what layers share, once: the bias of those that see the whole image and of those with windows."""
        shared, size = self.rel_pos_bias, self.window_size
        inside = padding_bias(grid, size, len(like), like) if self.windowed else None
        if shared is None:
            return None, inside
        if self.windowed:
            own = shared((size, size))
            inside = own if inside is None else inside + own
        return (shared(grid) if len(self.windowed) < self.num_layers else None), inside

    def _format(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return x
        if self.out_type == 'featmap':
            return x.transpose(1, 2).unflatten(2, grid)
        return self.ln2(x.mean(dim=1))

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        if self.pos_embed is not None:
            self.pos_embed.requires_grad_(False)
        if self.frozen_stages and self.rel_pos_bias is not None:
            self.rel_pos_bias.requires_grad_(False)
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]]
        if self.frozen_stages == self.num_layers:
            frozen += [getattr(self, name) for name in ('ln1', 'ln2') if hasattr(self, name)]
        for module in frozen:
            nn.Module.train(module, False)
            module.requires_grad_(False)
