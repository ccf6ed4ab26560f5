"""From any checkpoint of ours to the encoder in it, complete or not at all."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from randsac_mm.export.encoder import Encoder
from randsac_mm.export.layer_scale import fold_layer_scale
from randsac_mm.export.sizes import (
    check_sizes,
    find_heads,
    find_image_sizes,
    find_method,
    find_normalisation,
    merge_facts,
)
from randsac_mm.export.stored import facts_of, read_config, stored_config
from randsac_mm.models import RandSACViT
from randsac_mm.models.layers import EPS
from randsac_mm.transfer import load_backbone
from randsac_mm.transfer.architecture import ANCHORS, read_architecture
from randsac_mm.transfer.reading import find_state, read_checkpoint
from randsac_mm.transfer.resize import resize_positions
from randsac_mm.transfer.strict_loading import choose_prefix

_LEARNED = 'deit'  # the method whose positions are learned


@dataclass(frozen=True)
class Source:
    """Hold an encoder and all that a target needs to know about it.

    Attributes:
        encoder: The encoder in evaluation mode, without layer scale, with positions for ``img_size``.
        arch: ``embed_dims``, ``num_layers``, ``num_heads`` and ``feedforward_channels``.
        img_size: Height and width in pixels.
        patch_size: Side P of a patch, in pixels.
        in_channels: Number of image channels C.
        qkv_bias: Whether queries, keys and values have a bias.
        final_norm: Whether the tokens are normalised after the last layer.
        method: What :class:`randsac_mm.models.RandSACViT` needs as ``method`` to read the exported weights.
        mean: Mean of each channel, in pixel values 0 .. 255.
        std: Standard deviation of each channel, same units.
        path: The checkpoint.
        sha256: Its digest.
        notes: What was changed on the way, in words.
    """

    encoder: Encoder
    arch: dict[str, int]
    img_size: tuple[int, int]
    patch_size: int
    in_channels: int
    qkv_bias: bool
    final_norm: bool
    method: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    path: Path
    sha256: str
    notes: tuple[str, ...] = ()

    @property
    def averaged_norm(self) -> bool:
        """Tell whether the averaged tokens are normalised."""
        return self.encoder.averaged_norm is not None

    def normalise(self, pixels: Tensor) -> Tensor:
        """Turn pixels (B, C, H, W), uint8, in RGB, into the inputs of the encoder."""
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (pixels.float() - mean) / std

    def metadata(self) -> dict[str, str]:
        """Describe the encoder in strings, for the header of a file."""
        return {
            'architecture': json.dumps(
                {
                    **self.arch,
                    'img_size': self.img_size,
                    'patch_size': self.patch_size,
                    'in_channels': self.in_channels,
                    'qkv_bias': self.qkv_bias,
                    'final_norm': self.final_norm,
                    'averaged_norm': self.averaged_norm,
                }
            ),
            'normalisation': json.dumps({'mean': self.mean, 'std': self.std, 'range': [0, 255], 'channels': 'RGB'}),
            'source': self.path.name,
            'source_sha256': self.sha256,
        }


def read_source(
    path: str | Path,
    *,
    num_heads: int | None = None,
    img_size: int | Sequence[int] | None = None,
    patch_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    config: str | Path | None = None,
    prefix: str | None = None,
    averaged_norm: bool = True,
) -> Source:
    """Read the encoder of a checkpoint.

    Sizes are read from the weights, the image size too if positions are fixed sine-cosine ones. Heads, normalisation
    and windows are in no weight: they come from ``config``, the config that the checkpoint carries, or the arguments.

    Args:
        path: Pre-training, classifier, segmentor, detector or exported backbone; ``.pth`` or ``.safetensors``.
        num_heads: Number of heads, if the checkpoint carries no config.
        img_size: Height and width to export for, in pixels, one number or two. None: as in training.
        patch_size: Side P of a patch, to be checked.
        mean: Mean of each channel, in pixel values 0 .. 255, instead of the config's.
        std: Standard deviation of each channel, same units.
        config: The config that the checkpoint was trained by.
        prefix: What stands before the encoder's names in the file, as ``'backbone.'``. None: it is found.
        averaged_norm: False: leave out the norm of the averaged tokens that some classifiers have.

    Returns:
        The encoder and what is known about it.

    Raises:
        FileNotFoundError: If there is no such checkpoint or config.
        ValueError: If the file cannot be read safely or holds no plain Vision Transformer, if something is unknown or
            contradicts the weights, or if the encoder has windows or relative position biases.
    """
    if '://' in str(path):
        raise ValueError(f'{path}: only local files are exported, because their digest is recorded. Download it first')
    checkpoint = read_checkpoint(path)
    state = find_state(checkpoint, path)
    prefix = choose_prefix(state, dict.fromkeys(ANCHORS), prefix, str(path))
    inside = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    sizes, method = read_architecture(inside), find_method(inside, path)
    given = None if config is None else facts_of(read_config(config))
    facts = merge_facts(facts_of(stored_config(checkpoint, read_header(path))), given, path, config)
    check_sizes(sizes, facts, patch_size, path)
    arch = {
        'embed_dims': sizes.embed_dims,
        'num_layers': sizes.num_layers,
        'num_heads': find_heads(sizes.embed_dims, facts.arch.get('num_heads'), num_heads, path),
        'feedforward_channels': sizes.feedforward_channels,
    }
    trained_size, wanted_size = find_image_sizes(
        inside['pos_embed'], method != _LEARNED, sizes.patch_size[0], facts, img_size, path
    )
    norms = {name: f'{name}.weight' in inside for name in ('ln1', 'ln2')}
    options = {
        'patch_size': sizes.patch_size[0],
        'in_channels': sizes.in_channels,
        'qkv_bias': 'layers.0.attn.qkv.bias' in inside,
        'final_norm': norms['ln1'],
    }
    mean, std = find_normalisation(facts, mean, std, sizes.in_channels, path)
    backbone, notes = _load(path, prefix, arch, (trained_size, wanted_size), method, options)
    norm = None
    if norms['ln2'] and averaged_norm:
        norm = nn.LayerNorm(sizes.embed_dims, eps=EPS)
        norm.load_state_dict({key: inside[f'ln2.{key}'] for key in ('weight', 'bias')})
    elif norms['ln2']:
        notes.append('the norm of the averaged tokens (ln2) was left out')
    return Source(
        encoder=Encoder(backbone, norm).eval().requires_grad_(False),
        arch=arch,
        img_size=wanted_size,
        method=backbone.method,
        mean=mean,
        std=std,
        path=Path(path),
        sha256=sha256(path),
        notes=tuple(notes),
        **options,
    )


def _load(
    path: str | Path,
    prefix: str,
    arch: dict[str, int],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    method: str,
    options: dict,
) -> tuple[RandSACViT, list[str]]:
    """Load a backbone strictly and make it plain, for another image size if wanted; with notes on what was changed."""
    trained_size, wanted_size = sizes
    # Fixed positions are made anew for any size, learned ones are loaded as they are and resized afterwards.
    first_size = trained_size if method == _LEARNED else wanted_size
    trained = RandSACViT(arch, first_size, out_type='raw', method=method, **options)
    load_backbone(trained, path, prefix=prefix)
    weights, notes = fold_layer_scale(trained.state_dict())
    plain = RandSACViT(arch, wanted_size, out_type='raw', method='mae' if method == 'cae' else method, **options)
    if trained_size != wanted_size and method == _LEARNED:
        source, target = trained.patch_resolution, plain.patch_resolution
        weights['pos_embed'] = resize_positions(weights['pos_embed'], source, target)
        notes.append(f'learned positions resized from {source} to {target} tokens')
    elif trained_size != wanted_size:
        notes.append(f'fixed positions made for {wanted_size} pixels; the checkpoint was saved with {trained_size}')
    plain.load_state_dict(weights, strict=True)
    return plain, notes


def read_header(path: str | Path) -> dict[str, str]:
    """Give the metadata of a safetensors file; of other files none."""
    if Path(path).suffix != '.safetensors':
        return {}
    from safetensors import safe_open

    with safe_open(str(path), 'pt') as file:
        return file.metadata() or {}


def sha256(path: str | Path) -> str:
    """Give the SHA-256 digest of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
