"""Contract: mmpretrain's own classes read what mmpretrain's pre-training saves, class token kept, numbers equal.

The configs of ``configs/peers`` are used as they are, but for the sizes of the network.
"""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmpretrain.registry import MODELS
from torch import nn

from randsac_mm.transfer import LayerDecayOptimWrapperConstructor, load_backbone

pytestmark = [
    pytest.mark.filterwarnings('ignore:torch.meshgrid'),
    pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg'),
]
ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=24)
SIZES = dict(arch=ARCH, img_size=24, patch_size=4)
# The classes that pre-train, with the options of mmpretrain's ViT-B configs, other than sizes.
PRETRAINING = {
    'mae': dict(type='MAEViT'),
    'beitv2': dict(type='BEiTPretrainViT', final_norm=False, layer_scale_init_value=0.1),
    'mocov3': dict(type='MoCoV3ViT', stop_grad_conv1=True),
    'maskfeat': dict(type='MaskFeatViT'),
    'cae': dict(type='CAEPretrainViT', layer_scale_init_value=0.1, bias='qv_bias'),
    'deit': dict(type='VisionTransformer'),
}
CONFIGS = {
    'upernet': {name: f'upernet_{name}-vit-b_ade20k-512.py' for name in PRETRAINING},
    'mask-rcnn': {name: f'mask-rcnn_{name}-vit-b_fpn_coco.py' for name in PRETRAINING if name not in ('beitv2', 'cae')},
}


def test_every_config_is_tested(root):
    configs = {path.name for task in CONFIGS for path in (root / 'configs' / 'peers').glob(f'{task}*.py')}
    assert configs == {config for task in CONFIGS.values() for config in task.values()}


def pretrained(name: str) -> nn.Module:
    """Build a model of mmpretrain with different values in all its weights, tables and layer scales."""
    model = MODELS.build({**SIZES, **PRETRAINING[name]})
    model.init_weights()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key != 'pos_embed':
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    model.eval()
    return model


def save(path, model, **others):
    """Write a checkpoint as mmpretrain's runner does: the backbone among other parts."""
    state = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    others = {'neck.weight': torch.zeros(3), 'momentum_encoder.0.cls_token': torch.zeros(1, 1, 16), **others}
    torch.save(dict(state_dict={**state, **others}, meta=dict(epoch=300)), path)
    return str(path)


@torch.no_grad()
def reference(model: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """Run a model of mmpretrain layer by layer, class token included; return the maps (B, D, h, w) of all layers."""
    x, grid = model.patch_embed(images)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    if model.pos_embed is not None:
        x = x + model.pos_embed
    shared = model.rel_pos_bias() if getattr(model, 'rel_pos_bias', None) is not None else None
    maps = []
    for layer in model.layers:
        x = layer(x) if shared is None and not hasattr(layer, 'gamma_1') else layer(x, shared)
        maps.append(x)
    if model.final_norm:
        maps[-1] = model.ln1(x)
    return [tokens[:, 1:].transpose(1, 2).unflatten(2, grid) for tokens in maps]


def peer_config(root, task: str, name: str, checkpoint: str) -> Config:
    cfg = Config.fromfile(root / 'configs' / 'peers' / CONFIGS[task][name])
    cfg.model.backbone.update(SIZES, out_indices=[0, 1, 2, 3])
    cfg.model.backbone.init_cfg.checkpoint = checkpoint
    return cfg


@pytest.mark.parametrize(('task', 'name'), [(task, name) for task in CONFIGS for name in CONFIGS[task]])
def test_features_equal_mmpretrains_class(root, tmp_path, task, name):
    source = pretrained(name)
    backbone = MODELS.build(peer_config(root, task, name, save(tmp_path / 'a.pth', source)).model.backbone)
    backbone.init_weights()
    backbone.eval()
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        found = backbone(images)
    for one, other in zip(found, reference(source, images), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    source.cls_token.data += torch.randn(16)  # the comparison can fail: the class token takes part
    assert not torch.allclose(found[-1], reference(source, images)[-1], atol=1e-2)


@pytest.mark.parametrize('name', PRETRAINING)
def test_upernet_takes_a_step_at_another_size(root, tmp_path, name):
    """Positions and tables are resized by mmpretrain's classes; layer decay reaches every layer."""
    size = 32
    cfg = peer_config(root, 'upernet', name, save(tmp_path / 'a.pth', pretrained(name)))
    norm_cfg = dict(type='BN', requires_grad=True)
    cfg.model.backbone.update(img_size=size)
    cfg.model.neck.update(embed_dims=16, patch_size=8, norm_cfg=norm_cfg)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.update(channels=8, norm_cfg=norm_cfg)
        head.loss_decode.avg_non_ignore = True
    cfg.model.decode_head.update(in_channels=[16] * 4, pool_scales=(1, 2))
    cfg.model.auxiliary_head.update(in_channels=16)
    init_default_scope('mmseg')
    from mmseg.registry import MODELS as SEGMENTORS
    from mmseg.structures import SegDataSample

    model = SEGMENTORS.build({**cfg.model, 'data_preprocessor': None})
    model.init_weights()
    build_optimizer = LayerDecayOptimWrapperConstructor(
        dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1)), dict(layer_decay_rate=0.5)
    )
    groups = build_optimizer(model).optimizer.param_groups
    assert {group['lr_scale'] for group in groups} == {0.5**i for i in range(6)}
    sample = SegDataSample()
    sample.gt_sem_seg = PixelData(data=torch.randint(5, (1, size, size)))
    losses = model.loss(torch.randn(2, 3, size, size), [sample, sample])
    losses['decode.loss_ce'].backward()
    assert model.backbone.cls_token.grad.abs().sum() > 0


def test_a_config_names_what_does_not_fit(root, tmp_path):
    """Nothing is skipped in silence: the same file without the exceptions of its config is refused."""
    cfg = peer_config(root, 'upernet', 'beitv2', save(tmp_path / 'a.pth', pretrained('beitv2')))
    cfg.model.backbone.init_cfg.pop('allow_unexpected')
    backbone = MODELS.build(cfg.model.backbone)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    with pytest.raises(ValueError, match='mask_token'):
        backbone.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_authors_checkpoints_with_timms_names_are_read(tmp_path):
    """timm's own class writes them; features are equal."""
    timm = pytest.importorskip('timm.models.vision_transformer', reason='timm is an optional requirement')
    source = timm.VisionTransformer(24, 4, embed_dim=16, depth=4, num_heads=2, mlp_ratio=1.5, num_classes=0).eval()
    nn.init.normal_(source.cls_token)
    torch.save(dict(model=source.state_dict(), epoch=399), tmp_path / 'a.pth')
    backbone = MODELS.build(dict(type='VisionTransformer', **SIZES, out_type='raw'))
    report = load_backbone(backbone, tmp_path / 'a.pth')
    backbone.eval()
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[0], source.forward_features(images), rtol=1e-4, atol=1e-4)
    assert not report.missing
    assert not report.unused
