"""The recipe of every segmentation config is the one typed here a second time, from the papers' tables."""

from typing import NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from segmentation.tiny import ROOT

FOLDER = ROOT / 'configs' / 'segmentation'


class Recipe(NamedTuple):
    lr: float
    embed_dims: int
    num_heads: int
    head: int  # channels of the decode head
    checkpoint: str
    million: float  # parameters of backbone, pyramid and both heads


VIT_B = Recipe(7e-4, 768, 12, 768, 'work_dirs/vit-b_in1k/epoch_1600.pth', 163.3)
RECIPES = {
    'upernet_vit-b_ade20k-512': VIT_B,
    'upernet_vit-b_lr1e-4_ade20k-512': VIT_B._replace(lr=1e-4),
    'upernet_vit-s_ade20k-512': Recipe(7e-4, 384, 6, 512, 'work_dirs/vit-s_in100/epoch_800.pth', 53.9),
}


def load(name: str) -> Config:
    init_default_scope('mmseg')
    return Config.fromfile(FOLDER / f'{name}.py')


def test_every_config_has_its_recipe_and_its_row_in_the_readme() -> None:
    assert {path.stem for path in FOLDER.glob('*.py')} == {*RECIPES, 'upernet_vit-s_own'}
    rows = (FOLDER / 'README.md').read_text().splitlines()
    for name, recipe in RECIPES.items():
        [row] = [row for row in rows if row.startswith(f'| [{name}]({name}.py)')]
        assert f'| {recipe.million} M |' in row


@pytest.mark.parametrize('name', RECIPES)
def test_optimisation(name: str) -> None:
    cfg = load(name)
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.get('clip_grad')) == ('AutocastOptimWrapper', None)
    optimizer = wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', RECIPES[name].lr, 0.05)
    assert tuple(optimizer.betas) == (0.9, 0.999)
    assert wrapper.constructor == 'LayerDecayOptimWrapperConstructor'
    assert wrapper.paramwise_cfg == dict(layer_decay_rate=0.65, norm_decay_mult=0.0, bias_decay_mult=0.0)
    warmup, poly = cfg.param_scheduler
    assert (warmup.type, warmup.begin, warmup.end, warmup.by_epoch) == ('LinearLR', 0, 1500, False)
    assert (poly.type, poly.begin, poly.end, poly.by_epoch) == ('PolyLR', 1500, 160000, False)
    assert (poly.power, poly.eta_min) == (1.0, 0.0)
    assert (cfg.train_cfg.type, cfg.train_cfg.max_iters) == ('IterBasedTrainLoop', 160000)
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_dataloader.batch_size * 8 == 16  # 8 GPUs
    assert cfg.val_dataloader.batch_size == 1
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.type, checkpoint.by_epoch) == ('ResumableCheckpointHook', False)


@pytest.mark.parametrize('name', RECIPES)
def test_crops_and_windows(name: str) -> None:
    cfg = load(name)
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(steps)[2:-1] == ['RandomResize', 'RandomCrop', 'RandomFlip', 'PhotoMetricDistortion']
    assert (steps['RandomResize'].scale, steps['RandomResize'].ratio_range) == ((2048, 512), (0.5, 2.0))
    assert (steps['RandomCrop'].crop_size, steps['RandomCrop'].cat_max_ratio) == ((512, 512), 0.75)
    assert steps['RandomFlip'].prob == 0.5
    resize = next(step for step in cfg.test_dataloader.dataset.pipeline if step.type == 'Resize')
    assert (resize.scale, resize.keep_ratio) == ((2048, 512), True)
    assert cfg.model.test_cfg == dict(mode='slide', crop_size=(512, 512), stride=(341, 341))
    assert cfg.model.data_preprocessor.size == (512, 512)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_prefix.img_path == 'images/validation'
    assert cfg.val_evaluator == cfg.test_evaluator == dict(type='IoUMetric', iou_metrics=['mIoU'])


@pytest.mark.parametrize('name', RECIPES)
def test_model(name: str) -> None:
    recipe, cfg = RECIPES[name], load(name)
    assert cfg.model.backbone.init_cfg == dict(type='StrictPretrained', checkpoint=recipe.checkpoint)
    for part in (cfg.model.neck, cfg.model.decode_head, cfg.model.auxiliary_head):
        assert part.norm_cfg == dict(type='SyncBN', requires_grad=True)
    with torch.device('meta'):
        model = MODELS.build(cfg.model).eval()
        maps = model.neck([torch.zeros(1, recipe.embed_dims, 32, 30)] * 4)
        assert model.decode_head(maps).shape == (1, 150, 128, 120)
        assert model.auxiliary_head(maps).shape == (1, 150, 32, 30)
    backbone = model.backbone
    assert (backbone.num_layers, backbone.embed_dims) == (12, recipe.embed_dims)
    assert backbone.layers[0].attn.num_heads == recipe.num_heads
    assert list(backbone.out_indices) == [3, 5, 7, 11]
    assert backbone.patch_size == model.neck.patch_size == 16
    drops = [module.drop_prob for module in backbone.modules() if type(module).__name__ == 'DropPath']
    assert (min(drops), max(drops)) == pytest.approx((0.1 / 11, 0.1), abs=0.1 / 11)
    assert model.decode_head.channels == recipe.head
    assert (model.auxiliary_head.in_index, model.auxiliary_head.loss_decode.loss_weight) == (2, 0.4)
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e6 == pytest.approx(recipe.million, abs=0.05)
