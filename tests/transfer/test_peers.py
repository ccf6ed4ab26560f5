"""Contract: mmpretrain's own classes read what mmpretrain's pre-training saves, class token kept, numbers equal.

The configs of ``configs/peers`` are used as they are, with the options of ``docs/peers.md``, but for the sizes of the
network.
"""

import re

import pytest
import torch
from builders import perturb
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
from mmpretrain.registry import MODELS
from torch import nn

from randsac_mm.transfer import LayerDecayOptimWrapperConstructor, load_backbone

pytestmark = [
    pytest.mark.filterwarnings('ignore:torch.meshgrid'),
    pytest.mark.filterwarnings('ignore:The `use_layer_scale` in'),
    pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg'),
]
ARCH = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=24)
# The classes that pre-train, with the options of mmpretrain's ViT-B configs, other than sizes. EVA's is MAE's.
PRETRAINING = {
    'mae': dict(type='MAEViT'),
    'milan': dict(type='MILANViT'),
    'mff': dict(type='MFFViT', out_indices=[0, 1, 3]),
    'beit': dict(type='BEiTPretrainViT', layer_scale_init_value=0.1),
    'beitv2': dict(type='BEiTPretrainViT', final_norm=False, layer_scale_init_value=0.1),
    'mocov3': dict(type='MoCoV3ViT', stop_grad_conv1=True),
    'maskfeat': dict(type='MaskFeatViT'),
    'cae': dict(type='CAEPretrainViT', layer_scale_init_value=0.1, bias='qv_bias'),
    'deit': dict(type='VisionTransformer'),
    'deit3': dict(type='DeiT3'),
    'dinov2': dict(type='VisionTransformer', patch_size=14, layer_scale_init_value=1e-5),
}
DINOV2 = {
    'model.backbone.img_size': 518,
    'model.backbone.patch_size': 14,
    'model.backbone.layer_scale_init_value': 1e-5,
    'model.backbone.init_cfg.allow_unexpected': 'mask_token',
    'model.neck.0.patch_size': 14,
    'model.data_preprocessor.pad_size_divisor': 14,
}
MFF = {'model.backbone.init_cfg.allow_unexpected': 'proj_*'}
# Methods without a config of their own: whose they use, with which options.
UPERNET = {'milan': ('mae', {}), 'mff': ('mae', MFF), 'beit': ('beitv2', {})}
DEIT3 = {'model.backbone.layer_scale_init_value': 1e-6}
SHARED = {'upernet': UPERNET, 'mask-rcnn': UPERNET | {'deit3': ('mae', DEIT3), 'dinov2': ('mae', DINOV2)}}
USES = [('upernet', name) for name in PRETRAINING]
USES += [('mask-rcnn', name) for name in PRETRAINING if name not in ('beit', 'beitv2', 'cae')]


def peer_config(root, task: str, name: str, checkpoint: str = '', grid: int = 3) -> Config:
    shared, options = SHARED[task].get(name, (name, {}))
    [path] = (root / 'configs' / 'peers').glob(f'{task}_{shared}-vit*.py')
    cfg = Config.fromfile(path)
    cfg.merge_from_dict(options)
    if checkpoint:
        cfg.model.backbone.update(arch=ARCH, img_size=grid * cfg.model.backbone.patch_size, out_indices=[0, 1, 2, 3])
        cfg.model.backbone.init_cfg.checkpoint = checkpoint
    return cfg


def test_every_config_is_tested_and_every_option_documented(root):
    folder = root / 'configs' / 'peers'
    configs = {str(path) for path in folder.iterdir() if path.name.startswith(('upernet', 'mask-rcnn'))}
    assert configs == {peer_config(root, *use).filename for use in USES}
    text = (root / 'docs' / 'peers.md').read_text()
    for options in (MFF, DEIT3, DINOV2):
        assert all(f'{key}={value}' in text for key, value in options.items())


def test_crops_and_windows_of_dinov2_are_whole_patches(root):
    cfg = peer_config(root, 'upernet', 'dinov2')
    crop = next(step for step in cfg.train_dataloader.dataset.pipeline if step.type == 'RandomCrop').crop_size
    model = cfg.model
    assert crop == model.data_preprocessor.size == model.test_cfg.crop_size == (model.backbone.img_size,) * 2
    assert model.backbone.patch_size == model.neck.patch_size == model.data_preprocessor.test_cfg.size_divisor == 14


def pretrained(name: str) -> nn.Module:
    """Build a model of mmpretrain with different values in all its weights, tables and layer scales."""
    cfg = dict(arch=ARCH, patch_size=16) | PRETRAINING[name]
    model = MODELS.build(dict(cfg, img_size=3 * cfg['patch_size']))
    model.init_weights()
    if name == 'dinov2':  # of no use, but in its files
        model.mask_token = nn.Parameter(torch.zeros(1, 16))
    perturb(model)
    model.eval()
    return model


def save(path, model):
    """Write a checkpoint as mmpretrain's runner does: the backbone among other parts."""
    state = {f'backbone.{key}': value for key, value in model.state_dict().items()}
    state |= {'neck.weight': torch.zeros(3), 'momentum_encoder.0.cls_token': torch.zeros(1, 1, 16)}
    torch.save(dict(state_dict=state, meta=dict(epoch=300)), path)
    return str(path)


@torch.no_grad()
def reference(model: nn.Module, images: torch.Tensor, final_norm: bool) -> list[torch.Tensor]:
    """Run a model of mmpretrain layer by layer, class token included; return the maps (B, D, h, w) of all layers."""
    x, grid = model.patch_embed(images)
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], dim=1)
    if model.pos_embed is not None:  # DeiT-3's class token has none
        x[:, -model.pos_embed.shape[1] :] += model.pos_embed
    shared = model.rel_pos_bias() if getattr(model, 'rel_pos_bias', None) is not None else None
    maps = []
    for layer in model.layers:
        if shared is not None or hasattr(layer, 'gamma_1'):
            x = layer(x, shared)
        else:  # mmpretrain's DeiT3 has a forward of its own, which uses the first norm twice
            x = TransformerEncoderLayer.forward(layer, x)
        maps.append(x)
    if final_norm:
        maps[-1] = model.ln1(x)
    return [tokens[:, 1:].transpose(1, 2).unflatten(2, grid) for tokens in maps]


@pytest.mark.parametrize(('task', 'name'), USES)
def test_features_equal_mmpretrains_class(root, tmp_path, task, name):
    source = pretrained(name)
    backbone = MODELS.build(peer_config(root, task, name, save(tmp_path / 'a.pth', source)).model.backbone)
    backbone.init_weights()
    backbone.eval()
    images = torch.randn(2, 3, *source.img_size)
    with torch.no_grad():
        found = backbone(images)
    for one, other in zip(found, reference(source, images, backbone.final_norm), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    source.cls_token.data += torch.randn(16)  # the comparison can fail: the class token takes part
    assert not torch.allclose(found[-1], reference(source, images, backbone.final_norm)[-1], atol=1e-2)


@pytest.mark.parametrize('name', [name for name in PRETRAINING if name not in UPERNET])
def test_upernet_takes_a_step_at_another_size(root, tmp_path, name):
    """Positions and tables are resized by mmpretrain's classes; layer decay reaches every layer."""
    cfg = peer_config(root, 'upernet', name, save(tmp_path / 'a.pth', pretrained(name)), grid=4)
    size = cfg.model.backbone.img_size
    norm_cfg = dict(type='BN', requires_grad=True)
    cfg.model.neck.update(embed_dims=16, norm_cfg=norm_cfg)
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
        dict(optimizer=dict(type='SGD', lr=1.0, weight_decay=0.1)),
        dict(cfg.optim_wrapper.paramwise_cfg, layer_decay_rate=0.5),
    )
    groups = build_optimizer(model).optimizer.param_groups
    assert {group['lr_scale'] for group in groups} == {0.5**i for i in range(6)}
    decayed = {id(parameter) for group in groups if group['weight_decay'] for parameter in group['params']}
    flat = {name: id(parameter) for name, parameter in model.backbone.named_parameters() if parameter.ndim == 1}
    assert not [name for name in flat if flat[name] in decayed], 'norms, biases and layer scales do not decay'
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


SCALED = dict(type='VisionTransformer', layer_scale_init_value=0.1)
BEIT = dict(init_values=0.1, global_pool='token', use_abs_pos_emb=False, use_rel_pos_bias=True)
AUTHORS = {  # timm's class with its options, mmpretrain's
    'mae': ('VisionTransformer', {}, dict(type='VisionTransformer')),
    'dinov2': ('VisionTransformer', dict(init_values=0.1), SCALED),
    'deit3': ('VisionTransformer', dict(init_values=0.1, no_embed_class=True), SCALED),
    'beit': ('Beit', BEIT, dict(type='BEiTViT', final_norm=True)),
}


@pytest.mark.parametrize('name', AUTHORS)
def test_authors_checkpoints_with_timms_names_are_read(tmp_path, name):
    """timm's own class writes them; features are equal."""
    timm = pytest.importorskip('timm.models', reason='timm is an optional requirement')
    kind, options, own = AUTHORS[name]
    sizes = dict(embed_dim=16, depth=4, num_heads=2, mlp_ratio=1.5, num_classes=0)
    source = perturb(getattr(timm, kind)(24, 4, **sizes, **options)).eval()
    state = source.state_dict()
    if name == 'deit3':  # its authors' names, otherwise timm's
        state = {re.sub(r'ls(\d)\.gamma', r'gamma_\1', key): value for key, value in state.items()}
    torch.save(dict(model=state, epoch=399), tmp_path / 'a.pth')
    backbone = MODELS.build(dict(own, arch=ARCH, img_size=24, patch_size=4, out_type='raw'))
    report = load_backbone(backbone, tmp_path / 'a.pth')
    backbone.eval()
    images = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(backbone(images)[0], source.forward_features(images), rtol=1e-4, atol=1e-4)
    assert not report.missing
    assert not report.unused
