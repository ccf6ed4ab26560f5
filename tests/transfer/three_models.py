"""One tiny backbone in three libraries, runs that pre-train it, and runs that end at their first step."""

import copy
import itertools
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS, DefaultScope, init_default_scope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

import randsac_mm  # noqa: F401
from randsac_mm.models import RandSACViT

DIMS, LAYERS, PATCH, SIZE = 16, 4, 8, 40
ARCH = dict(embed_dims=DIMS, num_layers=LAYERS, num_heads=4, feedforward_channels=23)
LIBRARIES = ('mmpretrain', 'mmseg', 'mmdet')
_number = itertools.count()


def backbone(**options):
    """Make the config of the tiny backbone; one of mmpretrain's names resolves in all libraries."""
    cfg = dict(type='mmpretrain.RandSACViT', arch=dict(ARCH), img_size=SIZE, patch_size=PATCH, out_indices=[0, 1, 2, 3])
    return {**cfg, **options}


def make(**options):
    """Build the backbone alone, with weights that no two layers share, norms and biases too."""
    vit = MODELS.build(backbone(**options))
    assert isinstance(vit, RandSACViT)
    with torch.no_grad():
        for name, parameter in vit.named_parameters():
            if name != 'pos_embed':
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return vit


def base_config(library, name):
    """Read one of a library's own base configs, as a project outside this repository does."""
    folder = Path(find_spec(library).origin).parent / '.mim' / 'configs' / '_base_' / 'models'
    return Config.fromfile(folder / name)


def model_config(library, **options):
    """Make the config of a classifier, an UPerNet or a Mask R-CNN around the tiny backbone."""
    vit = dict(_delete_=True, **backbone(**options))
    if library == 'mmpretrain':
        head = dict(type='LinearClsHead', num_classes=5, in_channels=DIMS)
        neck = None if options.get('out_type') == 'avg_featmap' else dict(type='GlobalAveragePooling')
        return Config(dict(model=dict(type='ImageClassifier', backbone=backbone(**options), neck=neck, head=head)))
    norm = dict(type='BN', requires_grad=True)
    pyramid = dict(type='ViTPyramid', embed_dims=DIMS, patch_size=PATCH, norm_cfg=norm)
    if library == 'mmseg':
        cfg = base_config('mmseg', 'upernet_r50.py')
        small = dict(channels=8, num_classes=151, norm_cfg=norm, loss_decode=dict(avg_non_ignore=True))
        heads = dict(
            decode_head=dict(in_channels=[DIMS] * 4, pool_scales=(1, 2), **small),
            auxiliary_head=dict(in_channels=DIMS, **small),
        )
        size = dict(data_preprocessor=dict(size=(SIZE, SIZE)))
        cfg.merge_from_dict(dict(model=dict(pretrained=None, backbone=vit, neck=pyramid, **heads, **size)))
        return cfg
    cfg = base_config('mmdet', 'mask-rcnn_r50_fpn.py')
    cfg.model.neck = [pyramid, dict(type='FPN', in_channels=[DIMS] * 4, out_channels=8, num_outs=5)]
    extractor = dict(out_channels=8)
    roi_head = dict(
        bbox_roi_extractor=extractor,
        bbox_head=dict(in_channels=8, fc_out_channels=8),
        mask_roi_extractor=extractor,
        mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1),
    )
    rpn_head = dict(in_channels=8, feat_channels=8)
    cfg.merge_from_dict(dict(model=dict(backbone=vit, rpn_head=rpn_head, roi_head=roi_head)))
    return cfg


def build(library, **options):
    """Build the model of a library, as its own runner does, without initialising its weights."""
    cfg = model_config(library, **options)
    init_default_scope(library)
    try:
        return MODELS.build(cfg.model)
    finally:
        DefaultScope._instance_dict.clear()


def initialised(library, **init_cfg):
    """Build the model of a library and initialise it from a checkpoint."""
    model = build(library, init_cfg=dict(type='StrictPretrained', **init_cfg))
    model.init_weights()
    return model


# ---- runs -----------------------------------------------------------------------------------------------------------


@DATASETS.register_module()
class NoiseImages(Dataset):
    """A few images of noise."""

    metainfo = dict(classes=('a', 'b'))  # noqa: RUF012

    def __init__(self, channels=3):
        self.channels = channels

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.randint(256, (self.channels, SIZE, SIZE), dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index))


class StepTaken(Exception):
    """Says that a run has come to its first step."""


@HOOKS.register_module()
class StopAtFirstStep(Hook):
    """Ends a run where training begins, after everything that happens before."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        raise StepTaken


def runner(model, work_dir, max_iters=2, **options):
    """Build an ordinary runner, with a stock checkpoint hook unless ``options`` say otherwise."""
    scope = options.pop('default_scope', 'mmpretrain')
    return Runner(
        model=copy.deepcopy(model),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=dict(type='mmengine.NoiseImages'),
            sampler=dict(type='InfiniteSampler', shuffle=True),
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=False, max_iters=max_iters),
        optim_wrapper=options.pop('optim_wrapper', dict(optimizer=dict(type='AdamW', lr=0.01))),
        default_hooks=options.pop('default_hooks', dict(checkpoint=dict(type='CheckpointHook', by_epoch=False))),
        default_scope=scope,
        log_level='WARNING',
        experiment_name=f'three{next(_number)}',
        randomness=dict(seed=3),
        **options,
    )


def pretrain_config():
    """Make the config of a RandSAC model around the tiny backbone."""
    return dict(
        type='RandSAC',
        backbone=backbone(type='RandSACViT'),
        neck=dict(
            type='RandSACDecoder',
            encoder_dims=DIMS,
            encoder_layers=LAYERS,
            embed_dims=20,
            num_layers=2,
            num_heads=5,
            feedforward_channels=13,
            skip=True,
        ),
        head=dict(type='RandSACHead', embed_dims=20, patch_size=PATCH, in_channels=3, norm_pix=True),
        data_preprocessor=dict(
            type='RandSACDataPreprocessor',
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            serialization=dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=25)),
        ),
    )


def pretrain(work_dir, hook='CheckpointHook', **options):
    """Pre-train for two steps; returns the checkpoint and the state dict that it should hold."""
    hooks = dict(checkpoint=dict(type=hook, by_epoch=False, interval=2))
    run = runner(pretrain_config(), work_dir, default_hooks=hooks, **options)
    model = run.train()
    return Path(work_dir, 'iter_2.pth'), {key: value.clone() for key, value in model.state_dict().items()}
