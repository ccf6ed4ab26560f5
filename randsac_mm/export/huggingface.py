"""transformers' ``IJepaModel``: its ``ViTModel`` has a class token, whose attention no weights can make zero."""

import json
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from .encoder import Encoder, Features
from .target import Target, rename, save_safetensors

_NAMES = {  # of the model hub's files, which every version of transformers reads
    r'^pos_embed$': 'embeddings.position_embeddings',
    r'^patch_embed': 'embeddings.patch_embeddings',
    r'^ln1': 'layernorm',
    r'^layers': 'encoder.layer',
    r'\.ln1': '.layernorm_before',
    r'\.ln2': '.layernorm_after',
    r'\.attn\.proj': '.attention.output.dense',
    r'\.attn\.(query|key|value)': r'.attention.attention.\1',
    r'\.ffn\.layers\.0\.0': '.intermediate.dense',
    r'\.ffn\.layers\.1': '.output.dense',
}


class HuggingFace(Target):
    """A folder for transformers, verified by ``AutoModel`` and ``AutoImageProcessor``.

    The features are ``model(**inputs).last_hidden_state`` and its mean over tokens.
    """

    name = 'hf'
    # mmpretrain cannot be imported beside transformers 5.
    packages: ClassVar = {'transformers.models.ijepa': 'transformers>=4.47,<5'}

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        if encoder.architecture['averaged_norm'] or not encoder.architecture['final_norm']:
            raise ValueError(
                f"{encoder.path}: transformers' IJepaModel has a norm of the tokens (ln1) and none of their average "
                '(ln2). Drop ln2 (--drop-averaged-norm), without ln1 export to another target'
            )

    def write(self, folder: Path) -> None:
        """See base class."""
        import transformers

        arch = self.encoder.architecture
        height, width = arch['img_size']
        config = transformers.IJepaConfig(
            hidden_size=arch['embed_dims'],
            num_hidden_layers=arch['num_layers'],
            num_attention_heads=arch['num_heads'],
            intermediate_size=arch['feedforward_channels'],
            hidden_act='gelu',
            layer_norm_eps=1e-6,
            image_size=height if height == width else [height, width],
            patch_size=arch['patch_size'],
            num_channels=arch['in_channels'],
            qkv_bias=arch['qkv_bias'],
            architectures=['IJepaModel'],
        )
        config.save_pretrained(folder)
        weights = self.encoder.weights()
        for key in [key for key in weights if '.qkv.' in key]:
            for name, rows in zip(('query', 'key', 'value'), weights.pop(key).chunk(3), strict=True):
                weights[key.replace('qkv', name)] = rows.clone()
        weights = {rename(key, _NAMES): value for key, value in weights.items()}
        save_safetensors(weights, folder / 'model.safetensors', self.encoder.metadata())
        processor = {
            'image_processor_type': 'ViTImageProcessor',
            'do_resize': True,
            'size': {'height': height, 'width': width},
            'resample': 3,  # bicubic
            'do_rescale': True,
            'rescale_factor': 1 / 255,
            'do_normalize': True,
            'image_mean': [value / 255 for value in self.encoder.mean],
            'image_std': [value / 255 for value in self.encoder.std],
        }
        (folder / 'preprocessor_config.json').write_text(json.dumps(processor, indent=2) + '\n')

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Features:
        """See base class."""
        import transformers

        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        processor = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True, use_fast=False)
        arrays = list(pixels.permute(0, 2, 3, 1).numpy())
        made = processor(arrays, return_tensors='pt', input_data_format='channels_last')['pixel_values']
        with torch.no_grad():
            tokens = model(inputs).last_hidden_state
        return Features(tokens, tokens.mean(dim=1), made)
