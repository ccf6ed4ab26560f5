"""The encoder: a plain ViT for transfer, a block-causal one for pre-training (paper section 4.1)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models.backbones import VisionTransformer
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from torch import Tensor, nn

from randsac_mm.kernels import autocast_dtype
from randsac_mm.registry import register
from randsac_mm.segments import Layout
from randsac_mm.transfer import pyramid_indices
from randsac_mm.transfer.strict_loading import strict_init_cfg

from .layers import EncoderLayer, LayerNorm, PatchEmbed, init_projections, run_layer
from .positions import POSITION_TYPES, adopt_positions, resize_positions, sincos_positions

_ARCH_KEYS = ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')
_OUT_TYPES = ('raw', 'featmap', 'avg_featmap')


@register('MODELS')
class RandSACViT(BaseBackbone):
    """Vision Transformer encoder without class token, with fixed sine-cosine positions.

    :meth:`forward` is mmpretrain's ``VisionTransformer`` in parameter names and, at the size of the pre-training, in
    numbers (with ``positions='bicubic'`` at every size), so a checkpoint needs no conversion; :meth:`encode` is the
    pre-training view of the same weights.

    Args:
        arch: Name in mmpretrain's zoo (``'deit-tiny'``, ``'deit-small'``, ``'base'``, ``'large'``, ...; its ``'small'``
            is 768 wide, not the ViT-S of the paper) or a dict with ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``feedforward_channels``.
        img_size: Height and width in pixels of the pre-training, one number or two. Other sizes are accepted at any
            time, see ``positions``.
        patch_size: Side P of a patch, in pixels.
        in_channels: Number of image channels C.
        out_indices: Layers whose output :meth:`forward` returns; negative ones count from the end. ``'segmentation'``
            and ``'detection'`` choose four by :func:`randsac_mm.transfer.pyramid_indices`.
        out_type: ``'featmap'`` (B, D, H / P, W / P), ``'raw'`` (B, N, D) or ``'avg_featmap'`` (B, D), the normalised
            average of all tokens.
        drop_path_rate: Probability of skipping a branch of the last layer, growing linearly from 0 at the first.
        qkv_bias: Whether queries, keys and values have a bias.
        final_norm: Whether the last layer's output is normalised.
        positions: Positions of another grid than that of the pre-training, which the checkpoint states.
            ``'stretched'``: sine and cosine of coordinates stretched to the trained grid, so that every token gets
            positions inside the trained range. ``'bicubic'``: the checkpoint's, interpolated as mmpretrain's
            ``VisionTransformer`` does; they may be learned ones. ``'extrapolated'``: sine and cosine of coordinates
            that count on beyond the trained ones, as whole models of earlier versions, once loaded, do by themselves.
            ``'trainable'``, for fine-tuning as in MAE: parameters, stretched to ``img_size`` when they are loaded and
            interpolated to other sizes.
        frozen_stages: Number of layers, from the input, that are not trained; -1: none, 0: only the embeddings.
        residual_in_fp32: Whether the residual stream of the pre-training stays float32 under bfloat16 autocast, instead
            of bfloat16, also that of the decoder. Norms compute in float32 in either case.
        with_cp: Whether training recomputes the inside of each layer in the backward pass instead of storing it.
        init_cfg: Initialisation from a checkpoint, as in mmengine. Without it the weights are Xavier uniform.

    Raises:
        ValueError: If an option or a size is not possible.

    Paper:
        Section 4.1, "Autoregressive Segment Encoder".
    """

    # In the metadata of state dicts. 1, as before this was counted: positions of other grids are extrapolated.
    _version = 2

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
        positions: str = 'stretched',
        frozen_stages: int = -1,
        residual_in_fp32: bool = False,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        settings = _arch_settings(arch)
        self.embed_dims = settings['embed_dims']
        self.num_layers = settings['num_layers']
        self.patch_size = patch_size
        self.in_channels = in_channels
        self.img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.patch_resolution = self.grid(*self.img_size)
        self.out_indices = layer_indices('out_indices', out_indices, self.num_layers)
        if out_type not in _OUT_TYPES:
            raise ValueError(f'out_type={out_type!r} must be one of {_OUT_TYPES}: there is no class token')
        self.out_type = out_type
        if positions not in POSITION_TYPES:
            raise ValueError(f'positions={positions!r} must be one of {POSITION_TYPES}')
        self.position_type = positions
        if positions == 'extrapolated':
            self._version = 1
        if not -1 <= frozen_stages <= self.num_layers:
            raise ValueError(f'frozen_stages={frozen_stages} must lie between -1 and num_layers={self.num_layers}')
        self.frozen_stages = frozen_stages
        self.residual_in_fp32 = residual_in_fp32
        self.with_cp = with_cp

        self.patch_embed = PatchEmbed(in_channels, self.embed_dims, patch_size)
        # Positions of the pre-training grid, which they identify; once a checkpoint is loaded, of its grid.
        self.positions_grid = self.patch_resolution
        table = sincos_positions(self.positions_grid, self.embed_dims).clone()
        self.pos_embed = nn.Parameter(table, requires_grad=positions == 'trainable')
        last = max(self.num_layers - 1, 1)
        self.layers = nn.ModuleList(
            EncoderLayer(
                self.embed_dims,
                settings['num_heads'],
                settings['feedforward_channels'],
                drop_path_rate=drop_path_rate * i / last,
                qkv_bias=qkv_bias,
            )
            for i in range(self.num_layers)
        )
        self.final_norm = final_norm
        if final_norm:
            self.ln1 = LayerNorm(self.embed_dims)
        if out_type == 'avg_featmap':
            self.ln2 = LayerNorm(self.embed_dims)
        init_projections(self.layers)
        self._freeze()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Return rows and columns of tokens of an image of ``height`` x ``width`` pixels.

        Raises:
            ValueError: If the patch size does not divide the image size.
        """
        p = self.patch_size
        if height < p or width < p or height % p or width % p:
            raise ValueError(
                f'an image of {height} x {width} pixels cannot be cut in patches of {p} x {p}: resize, crop or pad it '
                f'to multiples of {p}'
            )
        return height // p, width // p

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return features of images (B, C, H, W): one tensor per entry of ``out_indices``, of shape ``out_type``."""
        grid = self._check_images(images)
        x = self.patch_embed(images) + self.positions(grid)
        outs = []
        for i, layer in enumerate(self.layers):
            x = run_layer(layer, self.with_cp, x)
            if i == self.num_layers - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format(x, grid))
        return tuple(outs)

    def encode(self, images: Tensor, layout: Layout, run: Callable[..., Tensor] = run_layer) -> list[Tensor]:
        """Encode serialized tokens: each attends to its own segment and to earlier ones.

        Args:
            images: Normalised images (B, C, H, W).
            layout: Which S tokens to encode, and their mask.
            run: The function :func:`run_layer`, or its compiled code.

        Returns:
            The hidden states H^1 .. H^L of all layers, each (B, S, D), the last one normalised if ``final_norm``.

        Paper:
            Section 4.1, Figure 4 left.
        """
        x = self.embed_source(images, layout)
        hidden = []
        for layer in self.layers:
            x = run(layer, self.with_cp, x, layout.source_mask)
            hidden.append(x)
        if self.final_norm:
            hidden[-1] = self.ln1(x)
        return hidden

    def embed_source(self, images: Tensor, layout: Layout) -> Tensor:
        """Return the embedded source tokens of a layout with their positions, H^0 (B, S, D); see :meth:`encode`."""
        grid = self._check_images(images)
        x = self.patch_embed.forward_some(images, layout.source) + self.positions(grid)[0, layout.source]
        # Not in float16, which the sums of many layers may exceed.
        narrow = autocast_dtype(x.device.type) == torch.bfloat16 and not self.residual_in_fp32
        return x.to(torch.bfloat16) if narrow else x

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """Return the positions (1, N, D) of a grid of N tokens, see the argument ``positions``."""
        if grid == self.positions_grid:
            return self.pos_embed
        if self.position_type in ('bicubic', 'trainable'):
            return resize_positions(self.pos_embed, self.positions_grid, grid)
        return sincos_positions(grid, self.embed_dims, self.pos_embed.device, self.trained_grid).to(self.pos_embed)

    @property
    def trained_grid(self) -> tuple[int, int] | None:
        """Grid to which coordinates are stretched, also those of a decoder; None: they are extrapolated."""
        return None if self._version == 1 else self.positions_grid

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the depth of a parameter, from 0 for the patch embedding, and the number of depths ``num_layers + 2``.

        Args:
            param_name: Full name of the parameter.
            prefix: Prefix of the backbone's names, as ``'backbone.'``; what lies outside has the last depth.
        """
        depths = self.num_layers + 2
        name = param_name.removeprefix(prefix)
        if param_name.startswith(prefix) and name.startswith(('patch_embed.', 'pos_embed')):
            return 0, depths
        if param_name.startswith(prefix) and name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, depths
        return depths - 1, depths

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; ``'Pretrained'`` is :class:`randsac_mm.transfer.StrictPretrained` here."""
        self.init_cfg: Any = strict_init_cfg(self.init_cfg)
        super().init_weights()

    def train(self, mode: bool = True) -> 'RandSACViT':
        """Set training mode; frozen layers stay in evaluation mode. Unlike its parents', returns the module."""
        super().train(mode)
        self._freeze()
        return self

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *args: object) -> None:
        """Adopt the positions of a state dict, and the grid of the pre-training that they state."""
        key = prefix + 'pos_embed'
        if prefix and self.position_type == 'stretched':  # a whole model, not only its backbone
            self._version = local_metadata.get('version', self._version)
            if self._version == 1:
                print_log(f"{key} is of an earlier version: positions='extrapolated', as it was trained", 'current')
        if key in state_dict:
            kind, grid = self.position_type, self.patch_resolution
            self.positions_grid, table = adopt_positions(key, state_dict[key], self.embed_dims, grid, kind)
            self.pos_embed.data = state_dict[key] = table.to(self.pos_embed, copy=True)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)

    def _check_images(self, images: Tensor) -> tuple[int, int]:
        """Return the token grid of images (B, C, H, W) that fit."""
        if images.ndim != 4 or images.shape[1] != self.in_channels:
            raise ValueError(
                f'images have shape {tuple(images.shape)}, but this backbone reads (B, {self.in_channels}, H, W)'
            )
        return self.grid(*images.shape[2:])

    def _format(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return x
        if self.out_type == 'featmap':
            return x.transpose(1, 2).unflatten(2, grid)
        return self.ln2(x.mean(dim=1))

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        self.pos_embed.requires_grad_(False)
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]]
        if self.frozen_stages == self.num_layers:
            frozen += [getattr(self, name) for name in ('ln1', 'ln2') if hasattr(self, name)]
        for module in frozen:
            nn.Module.train(module, False)
            module.requires_grad_(False)


def _arch_settings(arch: str | dict) -> dict[str, int]:
    if isinstance(arch, str):
        if arch.lower() not in VisionTransformer.arch_zoo:
            raise ValueError(f'arch={arch!r} must be one of {sorted(VisionTransformer.arch_zoo)}, or a dict')
        return VisionTransformer.arch_zoo[arch.lower()]
    if set(arch) != set(_ARCH_KEYS):
        raise ValueError(f'arch={dict(arch)} must have exactly the keys {_ARCH_KEYS}')
    return arch


def layer_indices(name: str, choice: int | str | Sequence[int], num_layers: int) -> list[int]:
    """Return chosen layers, counted from 0; a ValueError names the option ``name`` if there is no such layer.

    Args:
        name: Name of the option.
        choice: One index or several, negative ones from the end; or a task of
            :func:`randsac_mm.transfer.pyramid_indices`.
        num_layers: Number of layers.
    """
    if isinstance(choice, str):
        return pyramid_indices(choice, num_layers)
    indices = [choice] if isinstance(choice, int) else list(choice)
    for i in indices:
        if not -num_layers <= i < num_layers:
            raise ValueError(f'{name}={indices} has {i}, but there are only {num_layers} layers')
    return [i % num_layers for i in indices]
