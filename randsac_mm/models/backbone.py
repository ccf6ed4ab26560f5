"""The encoder: a plain ViT for transfer, a block-causal one for pre-training (paper section 4.1)."""

from collections.abc import Sequence

import torch
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from randsac_mm.registry import register
from randsac_mm.segments import Layout, additive
from randsac_mm.transfer import pyramid_indices

from .layers import EPS, EncoderLayer, PatchEmbed, init_projections
from .positions import sincos_positions

_ARCH_KEYS = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
_OUT_TYPES = ('raw', 'featmap', 'avg_featmap')


@register('MODELS')
class RandSACViT(BaseBackbone):
    """Encode images with a Vision Transformer without class token and with fixed sine-cosine positions.

    :meth:`forward` is mmpretrain's ``VisionTransformer`` in parameter names and numbers, so a checkpoint needs no
    conversion; :meth:`encode` is the pre-training view of the same weights.

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
        final_norm: Whether the last layer's output is normalised.
        frozen_stages: Number of layers, from the input, that are not trained; -1: none, 0: only the patch embedding.
        init_cfg: Initialisation from a checkpoint, as in mmengine. Without it the weights are Xavier uniform.

    Raises:
        ValueError: If ``arch``, ``out_type``, ``out_indices``, ``frozen_stages`` or a size is not possible.

    Paper:
        Section 4.1, "Autoregressive Segment Encoder".

    Example:
        >>> vit = RandSACViT(arch='deit-tiny', img_size=32, patch_size=4)
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
        final_norm: bool = True,
        frozen_stages: int = -1,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        settings = _arch_settings(arch)
        self.embed_dims = settings['embed_dims']
        self.num_layers = settings['num_layers']
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.out_indices = self._check_indices(out_indices)
        if out_type not in _OUT_TYPES:
            raise ValueError(f'out_type={out_type!r} must be one of {_OUT_TYPES}: there is no class token')
        self.out_type = out_type
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(f'frozen_stages={frozen_stages} must lie between -1 and num_layers={self.num_layers}')
        self.frozen_stages = frozen_stages

        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        self.patch_resolution = self.grid(*self.img_size)
        # In the state dict for mmpretrain's sake; never trained, never read from a checkpoint (see the hook below).
        positions = sincos_positions(self.patch_resolution, self.embed_dims).clone()
        self.pos_embed = nn.Parameter(positions, requires_grad=False)
        self._register_load_state_dict_pre_hook(_keep_fixed_positions, with_module=True)
        last = max(self.num_layers - 1, 1)
        self.layers = nn.ModuleList(
            EncoderLayer(
                self.embed_dims,
                settings['num_heads'],
                settings['feedforward_channels'],
                drop_path_rate * i / last,
                qkv_bias,
            )
            for i in range(self.num_layers)
        )
        self.final_norm = final_norm
        if final_norm:
            self.ln1 = nn.LayerNorm(self.embed_dims, eps=EPS)
        if out_type == 'avg_featmap':
            self.ln2 = nn.LayerNorm(self.embed_dims, eps=EPS)
        init_projections(self.layers)
        self._freeze()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Give the token grid of an image.

        Args:
            height: Image height H in pixels.
            width: Image width W in pixels.

        Returns:
            Rows and columns of tokens.

        Raises:
            ValueError: If the patch size does not divide the image size.
        """
        p = self.patch_size
        if height < p or width < p or height % p or width % p:
            raise ValueError(
                f'an image of {height} x {width} pixels cannot be cut in patches of {p} x {p}. Resize, crop or pad it '
                f'to multiples of {p} (for example pad_size_divisor={p} in the data preprocessor)'
            )
        return height // p, width // p

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Extract features of whole images, without any mask.

        Args:
            images: Normalised images (B, C, H, W); H and W are multiples of the patch size.

        Returns:
            One tensor per entry of ``out_indices``, shaped as ``out_type`` says.

        Raises:
            ValueError: If the number of channels or the image size does not fit.
        """
        grid = self._check_images(images)
        x = self.patch_embed(images)
        x = x + self._positions(grid, x)
        outs = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
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
            ValueError: If the number of channels or the image size does not fit.

        Paper:
            Section 4.1, Figure 4 left.
        """
        x = self.embed_source(images, layout)
        bias = additive(layout.source_mask, x.dtype)
        hidden = []
        for layer in self.layers:
            x = layer(x, bias)
            hidden.append(x)
        if self.final_norm:
            hidden[-1] = self.ln1(x)
        return hidden

    def embed_source(self, images: Tensor, layout: Layout) -> Tensor:
        """Embed the tokens that a layout lets into the encoder, H^0 (B, S, D); arguments as :meth:`encode`."""
        grid = self._check_images(images)
        x = self.patch_embed.forward_some(images, layout.source)
        return x + self._positions(grid, x)[0, layout.source]

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

    def train(self, mode: bool = True) -> 'RandSACViT':
        """Set training mode; frozen layers stay in evaluation mode. Unlike its parents', returns the module."""
        super().train(mode)
        self._freeze()
        return self

    def _positions(self, grid: tuple[int, int], like: Tensor) -> Tensor:
        if grid == self.patch_resolution:
            return self.pos_embed
        return sincos_positions(grid, self.embed_dims, like.device).to(self.pos_embed.dtype)

    def _check_images(self, images: Tensor) -> tuple[int, int]:
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f'images have shape {tuple(images.shape)}, but this backbone reads (B, {self.in_channels}, H, W): set '
                'in_channels, or convert the images'
            )
        return self.grid(*images.shape[2:])

    def _check_indices(self, out_indices: int | str | Sequence[int]) -> list[int]:
        if isinstance(out_indices, str):
            return pyramid_indices(out_indices, self.num_layers)
        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        for i in indices:
            if not -self.num_layers <= i < self.num_layers:
                raise ValueError(f'out_indices={indices} names layer {i}, but there are only {self.num_layers} layers')
        return [i % self.num_layers for i in indices]

    def _format(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return x
        if self.out_type == 'featmap':
            return x.transpose(1, 2).unflatten(2, grid)
        return self.ln2(x.mean(dim=1))

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]]
        if self.frozen_stages == self.num_layers:
            frozen += [getattr(self, name) for name in ('ln1', 'ln2') if hasattr(self, name)]
        for module in frozen:
            nn.Module.train(module, False)
            module.requires_grad_(False)


def _arch_settings(arch: str | dict) -> dict:
    """Look up the sizes of an architecture, with an error that lists the choices."""
    if isinstance(arch, str):
        if arch.lower() not in VisionTransformer.arch_zoo:
            known = sorted(VisionTransformer.arch_zoo)
            raise ValueError(f'arch={arch!r} is unknown. Choose one of {known}, or give a dict')
        return VisionTransformer.arch_zoo[arch.lower()]
    if set(arch) != set(_ARCH_KEYS):
        raise ValueError(f'arch={dict(arch)} must have exactly the keys {_ARCH_KEYS}')
    return arch


def _keep_fixed_positions(module: RandSACViT, state_dict: dict, prefix: str, *args: object) -> None:
    """Put our own positions in place of a checkpoint's, if those are fixed sine-cosine positions of any grid.

    Positions made for another grid must not be resized (a 9 x 16 grid looks like 12 x 12), and learned ones would hold
    for one grid only.
    """
    key = prefix + 'pos_embed'
    if key not in state_dict:
        return
    saved = state_dict[key]
    tokens = saved.shape[1] if saved.ndim == 3 and saved.shape[2] == module.embed_dims else 0
    for height in range(1, tokens + 1):
        if tokens % height == 0:
            made = sincos_positions((height, tokens // height), module.embed_dims)
            if torch.allclose(saved.cpu().float(), made, atol=1e-2):  # half precision included
                state_dict[key] = module.pos_embed.data
                return
    raise ValueError(
        f'{key} of the checkpoint, shape {tuple(saved.shape)}, holds no fixed sine-cosine positions of '
        f'{module.embed_dims} channels: the checkpoint belongs to another architecture or has learned positions. Load '
        'it into the architecture that it was saved from'
    )
