"""timm's ``VisionTransformer`` without class token, in a folder that ``timm.create_model`` reads."""

import json
import math
from pathlib import Path
from typing import ClassVar

import torch
from PIL import Image
from torch import Tensor

from .encoder import Encoder, Features
from .target import Target, rename, save_safetensors

_NAMES = {
    r'^layers': 'blocks',
    r'^ln1': 'norm',
    r'^ln2': 'fc_norm',
    r'\.ln(\d)': r'.norm\1',
    r'\.projection': '.proj',
    r'\.ffn\.layers\.0\.0': '.mlp.fc1',
    r'\.ffn\.layers\.1': '.mlp.fc2',
}


class TimmModel(Target):
    """``model.safetensors`` and ``config.json``, verified by ``timm.create_model('local-dir:FOLDER')``.

    timm averages before its norm by default; ``fc_norm=False`` keeps our order. It has one of the two norms, not both.
    """

    name = 'timm'
    packages: ClassVar = {'timm': 'timm'}

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        if encoder.architecture['final_norm'] and encoder.architecture['averaged_norm']:
            raise ValueError(
                f'{encoder.path} has a norm of the tokens (ln1) and one of their average (ln2), timm only one: '
                'drop the second (--drop-averaged-norm) or export to another target'
            )

    def write(self, folder: Path) -> None:
        """See base class."""
        weights = {rename(key, _NAMES): value for key, value in self.encoder.weights().items()}
        save_safetensors(weights, folder / 'model.safetensors', self.encoder.metadata())
        arch = self.encoder.architecture
        config = {
            'architecture': 'vit_base_patch16_224',  # timm wants a name it knows; model_args replaces every size
            'model_args': {
                'img_size': arch['img_size'],
                'patch_size': arch['patch_size'],
                'in_chans': arch['in_channels'],
                'embed_dim': arch['embed_dims'],
                'depth': arch['num_layers'],
                'num_heads': arch['num_heads'],
                'mlp_ratio': mlp_ratio(arch['embed_dims'], arch['feedforward_channels']),
                'qkv_bias': arch['qkv_bias'],
                'class_token': False,
                'global_pool': 'avg',
                'final_norm': arch['final_norm'] or arch['averaged_norm'],
                'fc_norm': arch['averaged_norm'],
                'num_classes': 0,
            },
            'pretrained_cfg': {
                'input_size': [arch['in_channels'], *arch['img_size']],
                'fixed_input_size': True,
                'interpolation': 'bicubic',
                'crop_pct': 1.0,
                'mean': [value / 255 for value in self.encoder.mean],
                'std': [value / 255 for value in self.encoder.std],
                'num_classes': 0,
                'classifier': 'head',  # may be missing in the file, so that create_model(num_classes=...) adds one
            },
        }
        (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n')

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Features:
        """See base class."""
        import timm

        model = timm.create_model(f'local-dir:{folder}', pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        arrays = pixels.permute(0, 2, 3, 1).numpy()
        made = torch.stack([transform(Image.fromarray(array.squeeze())) for array in arrays])  # grey: no channel axis
        with torch.no_grad():
            return Features(model.forward_features(inputs), model(inputs), made)


def mlp_ratio(dims: int, hidden: int) -> float:
    """Return the ratio from which timm computes a hidden width, by rounding down."""
    ratio = hidden / dims
    return ratio if int(dims * ratio) == hidden else math.nextafter(ratio, math.inf)
