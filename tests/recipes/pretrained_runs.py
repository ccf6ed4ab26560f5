"""Work directories as a pre-training leaves them: a complete config and a checkpoint of a tiny encoder."""

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import randsac_mm

TINY = dict(embed_dims=32, num_layers=4, num_heads=2, feedforward_channels=32)
# Patches of 16 px at 64 px in colour, of 4 px at 32 px in grey, of 2 px at 8 px in grey.
KINDS = {'p16': (64, 16, 3), 'p4': (32, 4, 1), 'p2': (8, 2, 1)}


def make_run(folder: Path, kind: str = 'p16', **arch: int) -> Path:
    """Write the run of a kind, with statistics that are none of ImageNet's."""
    size, patch, channels = KINDS[kind]
    cfg = Config.fromfile(randsac_mm.config_path('randsac/vit_digits.py'))
    cfg.model.backbone.update(arch=TINY | arch, img_size=size, patch_size=patch, in_channels=channels)
    cfg.model.neck.update(embed_dims=16, num_heads=2)
    cfg.model.data_preprocessor.update(mean=[30.0, 60.0, 90.0][:channels], std=[40.0, 50.0, 70.0][:channels])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    folder.mkdir(parents=True, exist_ok=True)
    cfg.dump(folder / 'config.py')
    meta = dict(cfg=cfg.pretty_text, epoch=1, iter=7)
    torch.save(dict(state_dict=model.state_dict(), meta=meta, optimizer={}, message_hub={}), folder / 'epoch_1.pth')
    return folder
