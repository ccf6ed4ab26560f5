"""One tiny backbone in three libraries, and runs that pre-train it."""

import copy
from importlib.util import find_spec
from pathlib import Path

import torch
from builders import config, perturb
from engine.toy_engine import toy_config
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

DIMS, LAYERS, PATCH, SIZE = 16, 4, 8, 40
ARCH = dict(embed_dims=DIMS, num_layers=LAYERS, num_heads=4, feedforward_channels=23)
LIBRARIES = ('mmpretrain', 'mmseg', 'mmdet')


def backbone(**options):
    """Make the config of the tiny backbone; one of mmpretrain's names resolves in all libraries."""
    cfg = dict(type='mmpretrain.RandSACViT', arch=dict(ARCH), img_size=SIZE, patch_size=PATCH, out_indices=[0, 1, 2, 3])
    return {**cfg, **options}


def make(**options):
    """Build the backbone alone, with weights that no two layers share, norms and biases too."""
    return perturb(MODELS.build(backbone(**options)))


def base_folder(library):
    """The folder of a library's own base configs."""
    return Path(find_spec(library).origin).parent / '.mim' / 'configs' / '_base_'


def read_base(library, name):
    """Read one of a library's own base configs, as a project outside this repository does."""
    return Config.fromfile(base_folder(library) / name).to_dict()


def model_config(library, **options):
    """Make the config of a classifier, an UPerNet or a Mask R-CNN around the tiny backbone."""
    vit = backbone(**options)
    if library == 'mmpretrain':
        head = dict(type='LinearClsHead', num_classes=5, in_channels=DIMS)
        neck = None if options.get('out_type') == 'avg_featmap' else dict(type='GlobalAveragePooling')
        return Config(dict(model=dict(type='ImageClassifier', backbone=vit, neck=neck, head=head)))
    norm = dict(type='BN', requires_grad=True)
    pyramid = dict(type='ViTPyramid', embed_dims=DIMS, patch_size=PATCH, norm_cfg=norm)
    if library == 'mmseg':
        small = dict(channels=8, num_classes=150, norm_cfg=norm, loss_decode=dict(avg_non_ignore=True))
        changes = dict(
            pretrained=None,
            neck=pyramid,
            data_preprocessor=dict(size=(SIZE, SIZE)),
            decode_head=dict(in_channels=[DIMS] * 4, pool_scales=(1, 2), **small),
            auxiliary_head=dict(in_channels=DIMS, **small),
        )
        cfg = Config(read_base('mmseg', 'models/upernet_r50.py'))
    else:
        changes = dict(
            neck=[pyramid, dict(type='FPN', in_channels=[DIMS] * 4, out_channels=8, num_outs=5)],
            rpn_head=dict(in_channels=8, feat_channels=8),
            roi_head=dict(
                bbox_roi_extractor=dict(out_channels=8),
                bbox_head=dict(in_channels=8, fc_out_channels=8),
                mask_roi_extractor=dict(out_channels=8),
                mask_head=dict(in_channels=8, conv_out_channels=8, num_convs=1),
            ),
        )
        cfg = Config(read_base('mmdet', 'models/mask-rcnn_r50_fpn.py'))
        del cfg.model.neck
    del cfg.model.backbone
    cfg.merge_from_dict(dict(model=dict(backbone=vit, **changes)))
    return cfg


def build(library, **options):
    """Build the model of a library, as its own runner does, without initialising its weights."""
    with DefaultScope.overwrite_default_scope(library):
        return MODELS.build(model_config(library, **options).model)


def initialised(library, **init_cfg):
    """Build the model of a library and initialise it from a checkpoint."""
    model = build(library, init_cfg=dict(type='StrictPretrained', **init_cfg))
    model.init_weights()
    return model


@DATASETS.register_module()
class NoiseImages(Dataset):
    """A few images of noise."""

    metainfo = dict(classes=('a', 'b'))  # noqa: RUF012

    def __len__(self):
        return 4

    def __getitem__(self, index):
        image = torch.randint(256, (3, SIZE, SIZE), dtype=torch.uint8)
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index))


def runner(model, work_dir, kind=Runner, max_iters=2, **options):
    """Build an ordinary runner, with a stock checkpoint hook unless ``options`` say otherwise."""
    run = toy_config(work_dir, iters=max_iters, sampler='InfiniteSampler', seed=3)
    run['train_dataloader'].update(dataset=dict(type='mmengine.NoiseImages'), batch_size=2)
    usual = dict(
        model=copy.deepcopy(model),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=None,
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False)),
        default_scope='mmpretrain',
    )
    return kind(**{**run, **usual, **options})


def pretrain_config():
    """Make the config of a RandSAC model around the tiny backbone."""
    squares = dict(type='SquarePartition', hierarchy=25)
    cfg = config(squares, grid=(SIZE // PATCH,) * 2, arch=ARCH, patch=PATCH, channels=3)
    cfg['data_preprocessor'].update(mean=[127.0], std=[74.0])
    return cfg


def pretrain(work_dir, hook='CheckpointHook', **options):
    """Pre-train for two steps; return the checkpoint and the state dict that must be in it."""
    hooks = dict(checkpoint=dict(type=hook, by_epoch=False, interval=2))
    model = runner(pretrain_config(), work_dir, default_hooks=hooks, **options).train()
    return Path(work_dir, 'iter_2.pth'), {key: value.clone() for key, value in model.state_dict().items()}
