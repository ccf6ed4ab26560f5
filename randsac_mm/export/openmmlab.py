"""Weights under mmpretrain's names: for its ``VisionTransformer``, and as safetensors for this package."""

from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor

from randsac_mm.transfer.model_loading import load_model

from .encoder import NORM, Encoder, Features, read_encoder
from .target import Target, save_safetensors

_PTH, _CONFIG, _SAFETENSORS = 'backbone.pth', 'config.py', 'backbone.safetensors'


class MMPretrain(Target):
    """``backbone.pth`` (tensors and plain values) and ``config.py``, verified by mmpretrain's own class."""

    name = 'mm'

    def write(self, folder: Path) -> None:
        """See base class."""
        meta = {'cfg': config_text(self.encoder), **self.encoder.metadata()}
        torch.save({'meta': meta, 'state_dict': self.encoder.weights()}, folder / _PTH)
        theirs = {'type': 'VisionTransformer', 'norm_cfg': NORM, 'with_cls_token': False}
        theirs['init_cfg'] = {'type': 'Pretrained', 'checkpoint': f'{{{{ fileDirname }}}}/{_PTH}'}
        (folder / _CONFIG).write_text(config_text(self.encoder, theirs))

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Features:
        """See base class."""
        cfg = Config.fromfile(folder / _CONFIG).model
        # mmengine's own loading tolerates what does not fit, so the weights are loaded here.
        checkpoint = cfg.backbone.pop('init_cfg').checkpoint
        model = MODELS.build({'_scope_': 'mmpretrain', **cfg}).eval()
        load_model(model.backbone, checkpoint)
        with torch.no_grad():
            averaged = model.extract_feat(inputs)[-1]
            model.backbone.out_type = 'raw'
            tokens = model.backbone(inputs)[-1]
            loaded = pixels.flip(1) if pixels.shape[1] == 3 else pixels  # BGR, as mmcv loads them
            return Features(tokens, averaged, model.data_preprocessor({'inputs': loaded})['inputs'])


class SafetensorsFile(Target):
    """``backbone.safetensors``, verified by :class:`randsac_mm.models.RandSACViT`, built from the file's header."""

    name = 'safetensors'

    def write(self, folder: Path) -> None:
        """See base class."""
        header = {'cfg': config_text(self.encoder), **self.encoder.metadata()}
        save_safetensors(self.encoder.weights(), folder / _SAFETENSORS, header)

    def run(self, folder: Path, pixels: Tensor, inputs: Tensor) -> Features:
        """See base class."""
        again = read_encoder(folder / _SAFETENSORS)
        return Features(*again(inputs), again.normalise(pixels))


def config_text(encoder: Encoder, backbone: dict[str, Any] | None = None) -> str:
    """Return the config of mmpretrain's classifier without head: with ours, or ``backbone``, of the same sizes."""
    architecture = encoder.architecture
    del architecture['positions_grid']  # the table of positions states it
    positions = architecture.pop('positions')
    arch = {key: architecture.pop(key) for key in ('embed_dims', 'num_layers', 'num_heads', 'feedforward_channels')}
    averaged_norm = architecture.pop('averaged_norm')
    backbone = {'arch': arch, **architecture, **(backbone or {'type': 'RandSACViT', 'positions': positions})}
    # mmpretrain's 'avg_featmap' means: average, then a norm of its own.
    backbone['out_type'] = 'avg_featmap' if averaged_norm else 'featmap'
    model = {
        'type': 'ImageClassifier',
        'data_preprocessor': {'mean': encoder.mean, 'std': encoder.std, 'to_rgb': len(encoder.mean) == 3},
        'backbone': backbone,
        'neck': None if averaged_norm else {'type': 'GlobalAveragePooling'},
        'head': None,
    }
    return (
        f'# The encoder of {encoder.path.name!r}, exported by randsac_mm. Add a head to train or test a classifier.\n'
        '# For images in BGR, as mmcv loads them; for a data set in RGB, as CIFAR10, set to_rgb=False.\n'
        f'{Config({"model": model}).pretty_text}'
    )
