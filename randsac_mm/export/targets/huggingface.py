"""transformers' ``IJepaModel``, its Vision Transformer without class token.

``ViTModel`` itself cannot be used: it puts a class token before the patches, and all patches attend to it. Its share
of every softmax is ``exp(q . k)``, more than zero for any finite weights, and its key comes from the same projection
as all others, so no weights make ``ViTModel`` equal to an encoder without that token. ``IJepaModel`` is the same class
less the token.
"""

import json
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from randsac_mm.export.encoder import Features
from randsac_mm.export.source import Source

from .base import Outputs, Target, require, save_safetensors, to_images

_WEIGHTS = 'model.safetensors'
_NAMES = {  # ours and those of the model hub's files, which every version of transformers reads
    'patch_embed.projection': 'embeddings.patch_embeddings.projection',
    'ln1': 'layernorm',
}
_LAYER_NAMES = {
    'ln1': 'layernorm_before',
    'ln2': 'layernorm_after',
    'attn.proj': 'attention.output.dense',
    'ffn.layers.0.0': 'intermediate.dense',
    'ffn.layers.1': 'output.dense',
}


class HuggingFace(Target):
    """Write a folder for ``AutoModel.from_pretrained`` and ``AutoImageProcessor.from_pretrained``; verify by these.

    The features are ``model(**inputs).last_hidden_state`` and its mean over tokens.
    """

    name = 'hf'
    # mmpretrain cannot be imported beside transformers 5.
    packages: ClassVar = {'transformers': 'transformers<5', 'safetensors': 'safetensors'}

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        if source.averaged_norm:
            raise ValueError(
                f'{source.path} has a norm of the averaged tokens (ln2), which no ViT of transformers has. '
                '--drop-averaged-norm leaves it out; it belongs to the classifier'
            )
        if not source.final_norm:
            raise ValueError(
                f"{source.path} has no norm after the last layer (ln1), and transformers' IJepaModel always has one: "
                "export to 'timm', 'safetensors', 'mm' or 'onnx'"
            )

    def write(self, folder: Path) -> None:
        """See base class."""
        transformers = require('transformers', self.packages['transformers'])
        if not hasattr(transformers, 'IJepaModel'):
            raise ImportError(
                f'transformers {transformers.__version__} is too old, it has no IJepaModel: '
                f"pip install -U '{self.packages['transformers']}'"
            )
        source, arch = self.source, self.source.arch
        height, width = source.img_size
        config = transformers.IJepaConfig(
            hidden_size=arch['embed_dims'],
            num_hidden_layers=arch['num_layers'],
            num_attention_heads=arch['num_heads'],
            intermediate_size=arch['feedforward_channels'],
            hidden_act='gelu',
            layer_norm_eps=1e-6,
            image_size=height if height == width else [height, width],
            patch_size=source.patch_size,
            num_channels=source.in_channels,
            qkv_bias=source.qkv_bias,
            architectures=['IJepaModel'],
        )
        config.save_pretrained(folder)
        weights = {}
        for key, value in source.encoder.weights().items():
            weights |= _translate(key, value)
        save_safetensors(weights, folder / _WEIGHTS, {'format': 'pt', **source.metadata()})
        processor = {
            'image_processor_type': 'ViTImageProcessor',
            'do_resize': True,
            'size': {'height': height, 'width': width},
            'resample': 3,  # bicubic
            'do_rescale': True,
            'rescale_factor': 1 / 255,
            'do_normalize': True,
            'image_mean': [value / 255 for value in source.mean],
            'image_std': [value / 255 for value in source.std],
        }
        (folder / 'preprocessor_config.json').write_text(json.dumps(processor, indent=2) + '\n')

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Outputs:
        """See base class."""
        transformers = require('transformers', self.packages['transformers'])
        model, found = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, use_safetensors=True
        )
        wrong = {kind: sorted(map(str, found[kind])) for kind in found if kind.endswith('_keys') and found[kind]}
        if wrong:
            raise ValueError(f'transformers did not load all weights: {wrong}')
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, use_fast=False)
        made = processor(to_images(pixels), return_tensors='pt', input_data_format='channels_last')['pixel_values']
        with torch.no_grad():
            tokens = model.eval()(inputs).last_hidden_state
        return Outputs(Features(tokens, tokens.mean(dim=1)), made)


def _translate(key: str, value: Tensor) -> dict[str, Tensor]:
    """Translate a tensor under mmpretrain's name to those of transformers; the joint projection becomes three."""
    if key == 'pos_embed':
        return {'embeddings.position_embeddings': value}
    module, _, kind = key.rpartition('.')
    if not module.startswith('layers.'):
        return {f'{_NAMES[module]}.{kind}': value}
    _, number, part = module.split('.', 2)
    start = f'encoder.layer.{number}'
    if part == 'attn.qkv':
        names = [f'{start}.attention.attention.{name}.{kind}' for name in ('query', 'key', 'value')]
        return {name: rows.clone() for name, rows in zip(names, value.chunk(3), strict=True)}
    return {f'{start}.{_LAYER_NAMES[part]}.{kind}': value}
