"""timm's ``VisionTransformer`` without class token, in a folder that ``timm.create_model`` reads."""

import json
import math
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from randsac_mm.export.encoder import Features
from randsac_mm.export.source import Source

from .base import Outputs, Target, require, save_safetensors, to_images

_WEIGHTS = 'model.safetensors'
_NAMES = {  # ours and timm's
    'patch_embed.projection': 'patch_embed.proj',
    'ln1': 'norm',
    'ln2': 'fc_norm',
}
_LAYER_NAMES = {
    'ln1': 'norm1',
    'ln2': 'norm2',
    'attn.qkv': 'attn.qkv',
    'attn.proj': 'attn.proj',
    'ffn.layers.0.0': 'mlp.fc1',
    'ffn.layers.1': 'mlp.fc2',
}


class TimmModel(Target):
    """Write ``model.safetensors`` and ``config.json``; verify by ``timm.create_model('local-dir:FOLDER')``.

    timm averages before its norm by default; ``fc_norm=False`` keeps our order. It has one of the two norms, not both.
    """

    name = 'timm'
    packages: ClassVar = {'timm': 'timm', 'safetensors': 'safetensors'}

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        if source.final_norm and source.averaged_norm:
            raise ValueError(
                f'{source.path} has a norm of the tokens (ln1) and one of their average (ln2); timm has either. '
                '--drop-averaged-norm leaves out the second, which belongs to the classifier'
            )

    def write(self, folder: Path) -> None:
        """See base class."""
        weights = {timm_name(key): value for key, value in self.source.encoder.weights().items()}
        save_safetensors(weights, folder / _WEIGHTS, {'format': 'pt', **self.source.metadata()})
        (folder / 'config.json').write_text(json.dumps(self._config(), indent=2) + '\n')

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Outputs:
        """See base class."""
        timm = require('timm', self.packages['timm'])
        load = require('safetensors.torch', 'safetensors').load_file
        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        check_equal(model.state_dict(), load(folder / _WEIGHTS), 'timm')
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        made = torch.stack(
            [transform(Image.fromarray(image.squeeze())) for image in to_images(pixels)]  # grey: no channel axis
        )
        with torch.no_grad():
            # With the norm after the average, tokens have none, here as there.
            return Outputs(Features(model.forward_features(inputs), model(inputs)), made)

    def _config(self) -> dict:
        source = self.source
        arch, size = source.arch, list(source.img_size)
        scaled = {name: [value / 255 for value in getattr(source, name)] for name in ('mean', 'std')}
        return {
            'architecture': 'vit_base_patch16_224',  # timm wants a name it knows; model_args replaces every size
            'num_classes': 0,
            'num_features': arch['embed_dims'],
            'global_pool': 'avg',
            'model_args': {
                'img_size': size,
                'patch_size': source.patch_size,
                'in_chans': source.in_channels,
                'embed_dim': arch['embed_dims'],
                'depth': arch['num_layers'],
                'num_heads': arch['num_heads'],
                'mlp_ratio': mlp_ratio(arch['embed_dims'], arch['feedforward_channels']),
                'qkv_bias': source.qkv_bias,
                'class_token': False,
                'global_pool': 'avg',
                'final_norm': source.final_norm or source.averaged_norm,
                'fc_norm': source.averaged_norm,
                'num_classes': 0,
            },
            'pretrained_cfg': {
                'custom_load': False,
                'input_size': [source.in_channels, *size],
                'fixed_input_size': True,
                'interpolation': 'bicubic',
                'crop_pct': 1.0,
                'crop_mode': 'center',
                **scaled,
                'num_classes': 0,
                'pool_size': None,
                'first_conv': None,  # nothing is to be adapted to other channels
                'classifier': 'head',
            },
        }


def timm_name(key: str) -> str:
    """Translate mmpretrain's name of a tensor to timm's.

    Example:
        >>> timm_name('layers.3.ffn.layers.0.0.bias'), timm_name('ln1.weight'), timm_name('pos_embed')
        ('blocks.3.mlp.fc1.bias', 'norm.weight', 'pos_embed')
    """
    if key == 'pos_embed':
        return key
    module, _, kind = key.rpartition('.')
    if module.startswith('layers.'):
        _, number, part = module.split('.', 2)
        return f'blocks.{number}.{_LAYER_NAMES[part]}.{kind}'
    return f'{_NAMES[module]}.{kind}'


def mlp_ratio(dims: int, hidden: int) -> float:
    """Give the ratio from which timm computes a hidden width, by rounding down, without losing one to rounding.

    Example:
        >>> int(7 * mlp_ratio(7, 11)), mlp_ratio(192, 768)
        (11, 4.0)
    """
    ratio = hidden / dims
    return ratio if int(dims * ratio) == hidden else math.nextafter(ratio, math.inf)


def check_equal(state: dict[str, Tensor], written: dict[str, Tensor], library: str) -> None:
    """Make sure that a library has loaded each written tensor as it is, and nothing else.

    Raises:
        ValueError: If not; names the tensors.
    """
    changed = [key for key in state.keys() & written.keys() if not torch.equal(state[key], written[key])]
    different = sorted((state.keys() ^ written.keys()) | set(changed))
    if different:
        raise ValueError(f'{library} did not load the written weights as they are: {", ".join(different[:6])}')
