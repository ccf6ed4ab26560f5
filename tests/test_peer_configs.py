"""Contract: the configs of peers read what mmpretrain's pre-training classes save, all of it, class token included."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

FOLDER = Path(__file__).resolve().parents[1] / 'configs' / 'peers'
CONFIGS = sorted([*FOLDER.glob('upernet*.py'), *FOLDER.glob('mask-rcnn*.py')])
TINY = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=24)
# Options as in mmpretrain's pre-training configs of ViT-B, other than sizes.
SAVED_BY = {
    'mae': dict(type='MAEViT'),
    'beitv2': dict(type='BEiTPretrainViT', final_norm=False, layer_scale_init_value=0.1),
    'mocov3': dict(type='MoCoV3ViT', stop_grad_conv1=True),
    'maskfeat': dict(type='MaskFeatViT'),
    'cae': dict(type='CAEPretrainViT', layer_scale_init_value=0.1, bias='qv_bias'),
    'deit': dict(type='VisionTransformer'),
}
TABLE = 'relative_position_bias_table'


@pytest.mark.filterwarnings('ignore:torch.meshgrid')
@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_backbone_reads_the_checkpoint_of_its_method(path: Path, tmp_path: Path) -> None:
    init_default_scope('mmpretrain')
    method = re.match(r'(?:upernet|mask-rcnn)_(\w+)-vit', path.stem)[1]
    theirs = MODELS.build(dict(SAVED_BY[method], arch=TINY, img_size=64, patch_size=16))
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter)
    saved = theirs.state_dict()
    state = {f'backbone.{key}': value for key, value in saved.items()} | {'head.weight': torch.zeros(1)}
    torch.save(dict(state_dict=state), tmp_path / 'peer.pth')

    cfg = Config.fromfile(path).model.backbone
    cfg.update(arch=TINY, img_size=64, out_indices=[0, 1, 2, 3])
    cfg.init_cfg.checkpoint = str(tmp_path / 'peer.pth')
    ours = MODELS.build(cfg)
    ours.init_weights()
    own = ours.state_dict()
    assert 'cls_token' in own
    for key, value in saved.items():
        if key == 'mask_token' or key.endswith('relative_position_index'):
            continue
        keys = [key] if key in own else [f'layers.{i}.attn.{TABLE}' for i in range(4)]  # shared by all layers
        assert all(torch.equal(own[key], value) for key in keys), key
    size = (64, 64) if method == 'beitv2' else (48, 80)  # tables are for one size
    maps = ours(torch.randn(2, 3, *size))
    assert [tuple(x.shape) for x in maps] == [(2, 16, size[0] // 16, size[1] // 16)] * 4
