"""Contract: a config outside this repository trains by mmseg's and mmdet's own tools/train.py, our parts by name."""

import re

import pytest
from processes import run
from transfer.three_models import base_folder, model_config, read_base

from randsac_mm.transfer.reading import read_checkpoint
from tools.make_shapes import make_shapes

# The library's own dataset, our choice of layers, and what its evaluation logs.
PROJECTS = {
    'mmseg': ('ade20k', 'datasets/ade20k.py', 'segmentation', 'mIoU:'),
    'mmdet': ('coco', 'datasets/coco_instance.py', 'detection', 'coco/segm_mAP:'),
}
TRAINING = dict(
    custom_imports=dict(imports=['randsac_mm'], allow_failed_imports=False),
    optim_wrapper=dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=dict(layer_decay_rate=0.65, norm_decay_mult=0.0, bias_decay_mult=0.0),
    ),
    default_hooks=dict(
        logger=dict(type='LoggerHook', interval=1), checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3)
    ),
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=3, val_interval=3),
    val_cfg=dict(type='ValLoop'),
    test_cfg=dict(type='TestLoop'),
    log_processor=dict(by_epoch=False),
)


def write_project(path, library, checkpoint, data):
    """Write a config of the library's own bases, our backbone, pyramid, loading and layer decay, and small images."""
    _, dataset, task, _ = PROJECTS[library]
    cfg = model_config(library, out_indices=task, init_cfg=dict(type='StrictPretrained', checkpoint=checkpoint))
    for part in (read_base(library, dataset), read_base(library, 'default_runtime.py'), TRAINING):
        cfg.merge_from_dict(part)
    resize = dict(type='Resize', scale=(64, 64), keep_ratio=False)
    train, val = cfg.train_dataloader.dataset.pipeline, cfg.val_dataloader.dataset.pipeline
    pipelines = [*train[:2], resize, train[-1]], [val[0], resize, *val[2:]]
    for loader, pipeline in zip((cfg.train_dataloader, cfg.val_dataloader), pipelines, strict=True):
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.update(data_root=data, pipeline=pipeline)
    cfg.test_dataloader = cfg.val_dataloader
    if library == 'mmdet':
        cfg.model.test_cfg.rcnn.update(score_thr=0.001, max_per_img=5)
        cfg.val_evaluator.ann_file = cfg.test_evaluator.ann_file = f'{data}/annotations/instances_val2017.json'
    cfg.dump(path)


@pytest.mark.slow
@pytest.mark.parametrize('library', PROJECTS)
def test_librarys_own_tool_trains_with_our_parts(tmp_path, pretrained, library):
    data, *_, metric = PROJECTS[library]
    make_shapes(tmp_path / 'shapes', images=3, val=1, size=(72, 88))
    write_project(tmp_path / 'config.py', library, str(pretrained[0]), str(tmp_path / 'shapes' / data))
    train = base_folder(library).parents[1] / 'tools' / 'train.py'
    log = run('python', train, 'config.py', '--work-dir', 'work', cwd=tmp_path)
    assert re.search(r"RandSACViT from .*iter_2.pth, prefix 'backbone.'\n *loaded \(5[0-9]\)", log)
    assert 'layer_decay_rate=0.65, lr=0.001, lr_scale of 12 groups' in log
    assert len(re.findall(r'Iter\(train\) .* loss: [0-9.]+', log)) == 3
    assert metric in log

    # Three small steps away from the checkpoint, and further where the learning rate is larger.
    trained = read_checkpoint(tmp_path / 'work' / 'iter_3.pth')['state_dict']
    names = [f'backbone.layers.{i}.attn.qkv.weight' for i in range(4)]
    moved = [(trained[name] - pretrained[1][name]).abs().max().item() for name in names]
    assert 0 < moved[0] < moved[3] < 3.1e-3
