"""The encoder of a checkpoint, built from its config and loaded strictly."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmpretrain.models import ClsDataPreprocessor
from safetensors import safe_open
from torch import Tensor, nn

from randsac_mm.engine.launch import load_config
from randsac_mm.files import sha256
from randsac_mm.models import RandSACViT
from randsac_mm.transfer import load_backbone
from randsac_mm.transfer.reading import read_checkpoint
from randsac_mm.transfer.stored_config import stored_config
from randsac_mm.version import __version__

NORM = {'type': 'LN', 'eps': 1e-6}
# Backbones that are exported, and what their configs must state.
_BACKBONES = {'RandSACViT': {}, 'VisionTransformer': {'with_cls_token': False, 'norm_cfg': NORM}}
_ARGUMENTS = {'arch', 'img_size', 'patch_size', 'in_channels', 'qkv_bias', 'final_norm', 'positions', 'out_type'}
_IRRELEVANT = {'out_indices', 'drop_path_rate', 'frozen_stages', 'with_cp', 'init_cfg'}  # to the last layer's features


class Features(NamedTuple):
    """Features of B images."""

    tokens: Tensor  # after the last layer and its norm, (B, N, D), in raster order
    averaged: Tensor  # their average, normalised if the encoder has a norm for it, (B, D)
    inputs: Tensor | None = None  # the normalised images, (B, C, H, W); None without a preprocessing


class Encoder(nn.Module):
    """Encoder with its preprocessing, in evaluation mode.

    Args:
        backbone: The backbone; with ``out_type='avg_featmap'`` it has a norm of the average, ``ln2``.
        mean: Mean of each channel, in pixel values 0 .. 255.
        std: Standard deviation of each channel, same units.
        path: The checkpoint.
        notes: How the encoder differs from the checkpoint.
    """

    def __init__(
        self, backbone: RandSACViT, mean: Sequence[float], std: Sequence[float], path: Path, notes: Sequence[str] = ()
    ) -> None:
        super().__init__()
        backbone.out_type = 'raw'
        self.backbone = backbone
        self.preprocessor = ClsDataPreprocessor(mean, std)
        self.mean, self.std, self.path, self.notes = tuple(mean), tuple(std), path, tuple(notes)
        self.sha256 = sha256(path)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Compute tokens (B, N, D) and averaged features (B, D) of images (B, C, H, W), normalised or uint8 pixels."""
        tokens = self.backbone(self.normalise(images) if images.dtype == torch.uint8 else images)[-1]
        averaged = tokens.mean(dim=1)
        return tokens, self.backbone.ln2(averaged) if hasattr(self.backbone, 'ln2') else averaged

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise pixels (B, C, H, W), uint8, in RGB, as in training."""
        return self.preprocessor({'inputs': pixels})['inputs']

    def weights(self) -> dict[str, Tensor]:
        """Return copies of all tensors under mmpretrain's names, float32, with the positions of ``img_size``."""
        positions = self.backbone.positions(self.backbone.patch_resolution)
        state = {**self.backbone.state_dict(), 'pos_embed': positions}
        return {key: value.detach().clone().contiguous() for key, value in state.items()}

    @property
    def architecture(self) -> dict[str, Any]:
        """Sizes and options under mmpretrain's names; ``img_size``: height and width in pixels.

        ``positions``, ``positions_grid``: how positions were computed, and from those of which grid, in tokens.
        """
        backbone = self.backbone
        return {
            'embed_dims': backbone.embed_dims,
            'num_layers': backbone.num_layers,
            'num_heads': backbone.layers[0].attn.num_heads,
            'feedforward_channels': backbone.layers[0].ffn.layers[0][0].out_features,
            'img_size': list(backbone.img_size),
            'patch_size': backbone.patch_size,
            'in_channels': backbone.in_channels,
            'qkv_bias': backbone.layers[0].attn.qkv.bias is not None,
            'final_norm': backbone.final_norm,
            'positions': backbone.position_type,
            'positions_grid': list(backbone.positions_grid),
            'averaged_norm': hasattr(backbone, 'ln2'),
        }

    @property
    def normalisation(self) -> dict[str, Any]:
        """Mean and standard deviation of each channel, range and order of the channels."""
        return {'mean': list(self.mean), 'std': list(self.std), 'range': [0, 255], 'channels': 'RGB'}

    def metadata(self) -> dict[str, str]:
        """Return the header of a file."""
        return {
            'architecture': json.dumps(self.architecture),
            'normalisation': json.dumps(self.normalisation),
            'source': self.path.name,
            'source_sha256': self.sha256,
            'randsac_mm': __version__,
        }


def read_encoder(
    path: str | Path,
    config: str | Path | None = None,
    img_size: Sequence[int] | None = None,
    averaged_norm: bool = True,
) -> Encoder:
    """Read the encoder of a checkpoint, as its config describes it.

    Args:
        path: Pre-training, classifier, segmentor, detector or exported backbone; ``.pth`` or ``.safetensors``.
        config: The config of that run. None: the one that the checkpoint stores.
        img_size: Height and width to export for, in pixels. None: the config's.
        averaged_norm: False: leave out the norm of the averaged tokens that some classifiers have.

    Raises:
        FileNotFoundError: If there is no such checkpoint or config.
        ValueError: If the file cannot be read safely or stores no config, if the config describes no plain Vision
            Transformer, or if the weights are not those that it describes.
    """
    if '://' in str(path):
        raise ValueError(f'{path}: only local files are exported, because their digest is recorded. Download it first')
    described, origin = _read_config(path, config)
    options = _backbone_options(described, origin)
    if not averaged_norm:
        options['out_type'] = 'raw'
    if img_size is not None:
        options['img_size'] = tuple(img_size)
    try:
        backbone = RandSACViT(**options)
    except Exception as error:  # a config may have any values
        raise ValueError(f'{origin}: the backbone cannot be built: {error}') from error
    mean, std = (_find_statistics(described, name, backbone.in_channels, origin) for name in ('mean', 'std'))
    report = load_backbone(backbone, path)
    wrong = {*report.missing, *(key for key in report.unused if key.startswith(report.prefix))}
    dropped = set() if averaged_norm else {key for key in wrong if key.startswith(f'{report.prefix}ln2.')}
    if wrong - dropped:
        raise ValueError(f'{path} has other weights than {origin} describes: {", ".join(sorted(wrong - dropped))}')
    notes = ['the norm of the averaged tokens (ln2) was dropped'] if dropped else []
    if backbone.patch_resolution != backbone.positions_grid:
        grids = backbone.patch_resolution, backbone.positions_grid
        notes.append(f'positions of {grids[0]} tokens, {backbone.position_type} from those of {grids[1]}')
    return Encoder(backbone, mean, std, Path(path), notes)


def _read_config(path: str | Path, config: str | Path | None) -> tuple[dict[str, Any], str]:
    """Return the config of a checkpoint and its origin, for errors."""
    checkpoint = read_checkpoint(path)
    if config is not None:
        return load_config(str(config), None, None, 'none').to_dict(), f'the config {config}'
    if Path(path).suffix == '.safetensors':
        with safe_open(str(path), 'pt') as file:
            checkpoint = {'meta': file.metadata()}
    stored = stored_config(checkpoint)
    if not isinstance(stored.get('model'), dict):
        raise ValueError(f'{path} stores no config: name the one that it was trained with (--config FILE)')
    return stored, f'the config in {path}'


def _backbone_options(config: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return the arguments of RandSACViT that a config states and that decide on features."""
    options = dict(config['model'].get('backbone') or {})
    kind = str(options.pop('type', None)).rpartition('.')[2]
    if kind not in _BACKBONES or any(options.pop(key, None) != value for key, value in _BACKBONES[kind].items()):
        raise ValueError(
            f'{origin}: the backbone {kind} cannot be exported, only RandSACViT, and VisionTransformer with '
            f'with_cls_token=False and norm_cfg={NORM}'
        )
    if kind == 'VisionTransformer':
        options['positions'] = 'bicubic'  # as that class does
    unknown = options.keys() - _ARGUMENTS - _IRRELEVANT
    if unknown:
        raise ValueError(f'{origin}: no target supports these options of the backbone: {", ".join(sorted(unknown))}')
    return {key: value for key, value in options.items() if key in _ARGUMENTS}


def _find_statistics(config: Mapping[str, Any], name: str, channels: int, origin: str) -> list[float]:
    """Return ``mean`` or ``std`` of each channel; 0 and 1 if the preprocessor has none."""
    preprocessor = config['model'].get('data_preprocessor', config.get('data_preprocessor'))
    if not isinstance(preprocessor, Mapping):
        raise ValueError(f'{origin} has no data_preprocessor with mean and std of the images: add it')
    values = preprocessor.get(name) or [0.0 if name == 'mean' else 1.0]
    numbers = isinstance(values, list | tuple) and all(isinstance(value, int | float) for value in values)
    if not numbers or len(values) not in (1, channels) or (name == 'std' and min(values) <= 0):
        raise ValueError(f'{origin}: {name}={values!r} must be numbers, std above 0, for each of {channels} channels')
    return [float(value) for value in values] * (channels // len(values))
