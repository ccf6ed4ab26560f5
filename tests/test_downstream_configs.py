"""Contract: every linear probe and fine-tuning is the paper's (D.3), typed here a second time from its tables."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


class Recipe(NamedTuple):
    checkpoint: str
    classes: int
    img_size: int
    encoder: tuple[int, int, int]  # layers, dims, heads


RECIPES = {
    'vit-b_in1k': Recipe('work_dirs/vit-b_in1k/epoch_1600.pth', 1000, 224, (12, 768, 12)),
    'vit-s_in100': Recipe('work_dirs/vit-s_in100/epoch_800.pth', 100, 224, (12, 384, 6)),
    'vit-s_cifar10': Recipe('work_dirs/vit-s_cifar10/epoch_1600.pth', 10, 32, (12, 384, 6)),
    'vit-s_cifar100': Recipe('work_dirs/vit-s_cifar100/epoch_1600.pth', 100, 32, (12, 384, 6)),
    'vit-t_cifar10': Recipe('work_dirs/vit-t_cifar10/epoch_800.pth', 10, 32, (12, 192, 3)),
}
DEVICES = {'vit-b_in1k': 8, 'vit-s_in100': 8}
EACH_RECIPE = [pytest.param(name, marks=[pytest.mark.slow] * (name != 'vit-t_cifar10')) for name in RECIPES]


def check_recipe(
    kind: str, name: str, base_lr: float, batch: int, epochs: int, warmup: int
) -> tuple[Config, torch.nn.Module]:
    """Check what linear probe and fine-tuning share; return the config and the model."""
    recipe = RECIPES[name]
    cfg = Config.fromfile(CONFIGS / kind / f'{kind}_{name}.py')
    pretraining = Config.fromfile(CONFIGS / 'randsac' / f'{name}.py')
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(base_lr * batch / 256)
    steps = cfg.optim_wrapper.get('accumulative_counts', 1)
    assert DEVICES.get(name, 1) * cfg.train_dataloader.batch_size * steps == batch
    assert cfg.auto_scale_lr.base_batch_size * steps == batch
    assert cfg.optim_wrapper.get('clip_grad') is None
    warm, cosine = cfg.param_scheduler
    assert (warm.type, warm.begin, warm.end) == ('LinearLR', 0, warmup)
    assert (cosine.type, cosine.begin, cosine.end) == ('CosineAnnealingLR', warmup, epochs)
    assert (cosine.T_max, cosine.eta_min, cfg.train_cfg.max_epochs) == (epochs - warmup, 0.0, epochs)
    assert warm.convert_to_iter_based is cosine.convert_to_iter_based is True
    init = cfg.model.backbone.init_cfg
    assert (init.type, init.checkpoint) == ('StrictPretrained', recipe.checkpoint)
    assert f'epoch_{pretraining.train_cfg.max_epochs}.' in init.checkpoint
    trained = cfg.train_dataloader.dataset.get('dataset', cfg.train_dataloader.dataset)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert (loader.drop_last, loader.sampler.shuffle) == (False, False)
        dataset = loader.dataset.get('dataset', loader.dataset)
        assert (dataset.type, dataset.data_root) == (trained.type, trained.data_root)
        assert 'test' in (dataset.get('split'),) or dataset.data_prefix == 'val'
    assert cfg.model.data_preprocessor.to_rgb is (recipe.img_size == 224)
    for key in ('mean', 'std', 'to_rgb'):
        assert cfg.model.data_preprocessor[key] == pretraining.model.data_preprocessor[key]

    init_default_scope('mmpretrain')
    model = MODELS.build(cfg.model)
    backbone = model.backbone
    assert (backbone.num_layers, backbone.embed_dims, backbone.layers[0].attn.num_heads) == recipe.encoder
    assert (backbone.img_size, backbone.out_indices) == ((recipe.img_size,) * 2, [recipe.encoder[0] - 1])
    assert (model.head.num_classes, model.head.in_channels) == (recipe.classes, recipe.encoder[1])
    assert backbone.patch_size == pretraining.model.backbone.patch_size
    model.eval()
    with torch.no_grad():
        images = torch.randn(2, 3, recipe.img_size, recipe.img_size)
        tokens = backbone(images)[-1].flatten(2)
        pooled = (model.neck[0] if isinstance(model.neck, torch.nn.Sequential) else model.neck)(backbone(images))[-1]
        torch.testing.assert_close(pooled, tokens.mean(2))
        assert model(images).shape == (2, recipe.classes)
    return cfg, model


@pytest.mark.parametrize('name', EACH_RECIPE)
def test_linear_probe_is_the_papers(name: str) -> None:
    cfg, model = check_recipe('linear_probe', name, base_lr=0.1, batch=16384, epochs=90, warmup=10)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.weight_decay) == ('LARS', 0.9, 0.0)
    assert [key for key, value in model.named_parameters() if value.requires_grad] == ['head.fc.weight', 'head.fc.bias']
    norm = model.neck[1].bn
    assert (norm.affine, norm.num_features) == (False, RECIPES[name].encoder[1])
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    excluded = {p.ndim for group in groups if group.get('lars_exclude') for p in group['params'] if p.requires_grad}
    assert excluded == {1}
    steps = [*cfg.train_dataloader.dataset.get('pipeline', []), *(cfg.model.data_preprocessor.get('augment') or [])]
    assert sum('RandomResizedCrop' in step.type for step in steps) == 1
    assert not {'RandAugment', 'ColorJitter'} & {step.type for step in steps}


@pytest.mark.parametrize('name', EACH_RECIPE)
def test_fine_tuning_is_the_papers(name: str) -> None:
    cfg, model = check_recipe('finetune', name, base_lr=5e-4, batch=1024, epochs=100, warmup=5)
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.weight_decay, tuple(optimizer.betas)) == ('AdamW', 0.05, (0.9, 0.95))
    assert all(value.requires_grad for key, value in model.named_parameters() if key != 'backbone.pos_embed')
    pipeline = cfg.train_dataloader.dataset.pipeline
    (randaug,) = (step for step in pipeline if step.type == 'RandAugment')
    assert (randaug.policies, randaug.num_policies) == ('timm_increasing', 2)
    assert (randaug.magnitude_level, randaug.total_level, randaug.magnitude_std) == (9, 10, 0.5)
    assert sum('RandomResizedCrop' in step.type for step in pipeline) == 1
    assert [(a.type, a.alpha) for a in cfg.model.train_cfg.augments] == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert cfg.model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    assert cfg.model.data_preprocessor.num_classes == RECIPES[name].classes
    assert max(m.drop_prob for m in model.modules() if type(m).__name__ == 'DropPath') == pytest.approx(0.1)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rate = {id(p): group for group in groups for p in group['params']}
    for key, value in model.named_parameters():
        if value.requires_grad:
            depth = int(key.split('.')[2]) + 1 if '.layers.' in key else 0 if 'patch_embed' in key else 13
            assert rate[id(value)]['lr'] == pytest.approx(2e-3 * 0.65 ** (13 - depth)), key
            assert rate[id(value)]['weight_decay'] == (0.05 if value.ndim > 1 else 0.0), key


def test_every_config_has_its_recipe() -> None:
    for kind in ('linear_probe', 'finetune'):
        found = {path.stem for path in (CONFIGS / kind).glob('*.py')} - {'finetune_vit-s_own'}
        assert found == {f'{kind}_{name}' for name in RECIPES}
