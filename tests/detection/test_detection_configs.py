"""The recipe of every detection config is the one typed here a second time."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'configs' / 'detection'


class Recipe(NamedTuple):
    arch: tuple[int, int]  # dims, heads
    checkpoint: str
    epochs: int
    milestones: list[int]
    batch: int  # in a step
    devices: int
    weight_decay: float
    layer_decay: float
    jitter: bool


VIT_B = Recipe((768, 12), 'work_dirs/vit-b_in1k/epoch_1600.pth', 12, [8, 11], 16, 8, 0.05, 0.75, False)
VIT_S = VIT_B._replace(arch=(384, 6), checkpoint='work_dirs/vit-s_in100/epoch_800.pth')
OWN = 'mask-rcnn_vit-s_own_coco'  # for images of one's own
JITTER = dict(epochs=100, milestones=[89, 96], batch=64, devices=16, weight_decay=0.1, layer_decay=0.7, jitter=True)
RECIPES = {
    'mask-rcnn_vit-b_fpn_coco': VIT_B,
    'mask-rcnn_vit-s_fpn_coco': VIT_S,
    'mask-rcnn_vit-b_fpn_lsj-100e_coco': VIT_B._replace(**JITTER),
    'mask-rcnn_vit-s_fpn_lsj-100e_coco': VIT_S._replace(**JITTER | dict(devices=8)),
}


def step(pipeline: list, kind: str) -> dict:
    return next(entry for entry in pipeline if entry.type == kind)


def test_every_config_has_its_recipe() -> None:
    assert {path.stem for path in FOLDER.glob('*.py')} == {*RECIPES, OWN}


@pytest.mark.parametrize('name', RECIPES)
def test_schedule(name: str) -> None:
    recipe = RECIPES[name]
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    wrapper = cfg.optim_wrapper
    optimizer = wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ('AdamW', 1e-4, recipe.weight_decay)
    assert tuple(optimizer.betas) == (0.9, 0.999)
    assert wrapper.constructor == 'LayerDecayOptimWrapperConstructor'
    assert wrapper.paramwise_cfg == dict(layer_decay_rate=recipe.layer_decay, norm_decay_mult=0.0, bias_decay_mult=0.0)
    assert wrapper.type == 'AutocastOptimWrapper'
    warmup, drops = cfg.param_scheduler
    assert (warmup.type, warmup.by_epoch, warmup.begin) == ('LinearLR', False, 0)
    assert (drops.type, drops.by_epoch, drops.end, drops.gamma) == ('MultiStepLR', True, recipe.epochs, 0.1)
    assert drops.milestones == recipe.milestones
    assert cfg.train_cfg.max_epochs == recipe.epochs
    assert cfg.train_dataloader.batch_size * recipe.devices == recipe.batch
    assert cfg.auto_scale_lr.base_batch_size == recipe.batch
    assert cfg.default_hooks.checkpoint.type == 'ResumableCheckpointHook'


@pytest.mark.parametrize('name', RECIPES)
def test_data(name: str) -> None:
    recipe = RECIPES[name]
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    train, test = cfg.train_dataloader.dataset, cfg.test_dataloader.dataset
    assert (train.type, train.ann_file) == ('CocoDataset', 'annotations/instances_train2017.json')
    assert (test.type, test.ann_file) == ('CocoDataset', 'annotations/instances_val2017.json')
    assert test.test_mode
    assert cfg.test_evaluator.ann_file == test.data_root + test.ann_file
    assert cfg.test_evaluator.metric == ['bbox', 'segm']
    assert cfg.val_dataloader == cfg.test_dataloader
    assert cfg.val_evaluator == cfg.test_evaluator
    assert step(train.pipeline, 'RandomFlip').prob == 0.5
    assert not any(entry.type == 'RandomFlip' for entry in test.pipeline)
    size = (1024, 1024) if recipe.jitter else (1333, 800)
    assert (step(test.pipeline, 'Resize').scale, step(test.pipeline, 'Resize').keep_ratio) == (size, True)
    if not recipe.jitter:
        assert (step(train.pipeline, 'Resize').scale, step(train.pipeline, 'Resize').keep_ratio) == (size, True)
        assert cfg.train_dataloader.batch_sampler.type == 'AspectRatioBatchSampler'
        assert cfg.model.data_preprocessor.get('batch_augments') is None
        return
    resize = step(train.pipeline, 'RandomResize')
    assert (resize.scale, resize.ratio_range, resize.keep_ratio) == (size, (0.1, 2.0), True)
    crop = step(train.pipeline, 'RandomCrop')
    assert (crop.crop_size, crop.crop_type, crop.recompute_bbox) == (size, 'absolute_range', True)
    (pad,) = cfg.model.data_preprocessor.batch_augments
    assert (pad.type, pad.size, pad.pad_mask) == ('BatchFixedSizePad', size, True)


@pytest.mark.slow
@pytest.mark.parametrize('name', RECIPES)
def test_model(name: str) -> None:
    recipe = RECIPES[name]
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    init = cfg.model.backbone.pop('init_cfg')
    assert init == dict(type='StrictPretrained', checkpoint=recipe.checkpoint)
    init_default_scope('mmdet')
    model = MODELS.build(cfg.model)
    backbone, (pyramid, fpn) = model.backbone, model.neck
    assert (backbone.embed_dims, backbone.num_layers) == (recipe.arch[0], 12)
    assert backbone.layers[0].attn.num_heads == recipe.arch[1]
    assert backbone.out_indices == [2, 5, 8, 11]
    assert backbone.patch_size == pyramid.patch_size == 16
    assert len(pyramid.scales) == 4
    assert cfg.model.data_preprocessor.pad_size_divisor % 16 == 0
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in pyramid.modules())
    assert (fpn.in_channels, fpn.out_channels, fpn.num_outs) == ([recipe.arch[0]] * 4, 256, 5)
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert model.roi_head.bbox_head.num_classes == model.roi_head.mask_head.num_classes == 80
    for part in cfg.optim_wrapper.modules:
        model.get_submodule(part)
    named = {id(p) for part in cfg.optim_wrapper.modules for p in model.get_submodule(part).parameters()}
    assert named == {id(p) for p in model.parameters()}, 'every weight computes in bfloat16'


def test_own_data_stand_at_the_top_and_all_else_follows(tmp_path: Path) -> None:
    text = (FOLDER / f'{OWN}.py').read_text().replace("'./mask-rcnn", f"'{FOLDER}/mask-rcnn")
    for old, new in {
        "data_root = 'data/own/'": "data_root = 'data/mine/'",
        "classes = ('object',)": "classes = ('ball', 'box', 'tent')",
        'max_per_img = 100': 'max_per_img = 700',
        'anchor_scale = 8': 'anchor_scale = 2',
    }.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    assert cfg.model.roi_head.bbox_head.num_classes == cfg.model.roi_head.mask_head.num_classes == 3
    assert cfg.model.test_cfg.rcnn.max_per_img == 700 < cfg.model.test_cfg.rpn.max_per_img
    assert cfg.model.rpn_head.anchor_generator.scales == [2]
    for part in ('train', 'val', 'test'):
        dataset = cfg[f'{part}_dataloader'].dataset
        assert (dataset.data_root, dataset.metainfo.classes) == ('data/mine/', ('ball', 'box', 'tent'))
        assert dataset.data_prefix.img == 'images/'
    assert cfg.train_dataloader.dataset.filter_cfg == dict(filter_empty_gt=True, min_size=1)
    assert cfg.val_evaluator.ann_file == cfg.test_evaluator.ann_file == 'data/mine/val.json'
    assert cfg.auto_scale_lr.base_batch_size == cfg.train_dataloader.batch_size
    assert cfg.param_scheduler[1].end == cfg.train_cfg.max_iters


def test_large_scale_jitter_gives_images_of_one_size(shapes: Path) -> None:
    """Small pictures are enlarged, cut or padded to 1,024 x 1,024 px; boxes stay with their masks."""
    cfg = Config.fromfile(FOLDER / 'mask-rcnn_vit-b_fpn_lsj-100e_coco.py')
    init_default_scope('mmdet')
    dataset = DATASETS.build({**cfg.train_dataloader.dataset, 'data_root': str(shapes / 'coco')})
    batch = [dataset[i] for i in range(3)]
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    data = preprocessor(
        dict(inputs=[item['inputs'] for item in batch], data_samples=[item['data_samples'] for item in batch]), True
    )
    assert data['inputs'].shape == (3, 3, 1024, 1024)
    assert len({sample.img_shape for sample in data['data_samples']}) > 1, 'jitter'
    for sample in data['data_samples']:
        gt = sample.gt_instances
        assert len(gt) > 0
        assert gt.masks.masks.shape == (len(gt), 1024, 1024)
        for box, mask in zip(gt.bboxes.round().int().tolist(), gt.masks.masks, strict=True):
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            around = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            assert max(abs(a - b) for a, b in zip(box, around, strict=True)) <= 2
