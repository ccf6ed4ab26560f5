"""Contract: one checkpoint gives the same features in mmpretrain, mmseg and mmdet, or the run never starts."""

import pytest
import torch
from mmengine.runner import FlexibleRunner
from mmengine.runner.checkpoint import get_torch_safe_globals
from transfer.three_models import (
    ARCH,
    DIMS,
    LIBRARIES,
    PATCH,
    SIZE,
    StepTaken,
    backbone,
    build,
    initialised,
    model_config,
    pretrain,
    runner,
)

SIZES = [(SIZE, SIZE), (3 * PATCH, 7 * PATCH)]


def features(vit, size):
    torch.manual_seed(1)
    images = torch.randn(2, 3, *size)
    vit.eval()
    with torch.no_grad():
        return vit(images)


def assert_same_features(found, expected):
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def pretrained_backbone(state):
    """The model that wrote the checkpoint, made without the code under test."""
    vit = build('mmpretrain').backbone
    vit.load_state_dict({key[len('backbone.') :]: v for key, v in state.items() if key.startswith('backbone.')})
    return vit


def write(kind, path, state):
    """Write the weights as somebody else would; returns the file's path."""
    flat = {key.removeprefix('backbone.'): value for key, value in state.items() if key.startswith('backbone.')}
    if kind == 'safetensors':
        from safetensors.torch import save_file

        save_file({key: value.contiguous() for key, value in flat.items()}, path.with_suffix('.safetensors'))
        return path.with_suffix('.safetensors')
    if kind in LIBRARIES:  # a model that was trained on, with its head, as its runner writes it
        model = build(kind)
        model.backbone.load_state_dict(flat)
        content = dict(state_dict=model.state_dict(), meta=dict(epoch=3, dataset_meta=dict(classes=('a', 'b'))))
    else:
        content = {
            'exported': flat,
            'exported, state_dict': dict(state_dict=flat),
            'exported, model': dict(model=flat, args='none'),
            'distributed': dict(state_dict={f'module.{key}': value for key, value in state.items()}),
            'half precision': {key: value.bfloat16() for key, value in flat.items()},
            'optimizer besides': dict(optimizer=dict(state={0: torch.zeros(3)}), state_dict=state),
        }[kind]
    torch.save(content, path)
    return path


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('prefix', [None, 'backbone.', 'backbone'])
def test_features_are_equal_bit_for_bit(pretrained, prefix, size):
    path, state = pretrained
    expected = features(pretrained_backbone(state), size)
    for library in LIBRARIES:
        model = initialised(library, checkpoint=str(path), prefix=prefix)
        assert_same_features(features(model.backbone, size), expected)
        fresh = build(library)
        fresh.init_weights()
        different = features(fresh.backbone, size)
        assert not torch.equal(different[0], expected[0]), 'the comparison must be able to fail'


KINDS = [
    'mmpretrain',
    'mmseg',
    'mmdet',
    'exported',
    'exported, state_dict',
    'exported, model',
    'distributed',
    'optimizer besides',
    'safetensors',
]


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_checkpoint_gives_these_features(tmp_path, pretrained, kind):
    path = write(kind, tmp_path / 'a.pth', pretrained[1])
    expected = features(pretrained_backbone(pretrained[1]), SIZES[1])
    for library in LIBRARIES:
        model = initialised(library, checkpoint=str(path))
        assert_same_features(features(model.backbone, SIZES[1]), expected)


def test_half_precision_is_read_into_full_precision(tmp_path, pretrained):
    path = write('half precision', tmp_path / 'a.pth', pretrained[1])
    found = [features(initialised(library, checkpoint=str(path)).backbone, SIZES[1]) for library in LIBRARIES]
    assert found[0][0].dtype == torch.float32
    assert_same_features(found[1], found[0])
    assert_same_features(found[2], found[0])


@pytest.mark.parametrize(
    'hook',
    [
        'CheckpointHook',  # mmengine's own: numpy scalars and HistoryBuffer in the file
        'ResumableCheckpointHook',
    ],
)
@pytest.mark.parametrize('ema', [False, True], ids=['', 'averaged'])
def test_checkpoints_of_both_hooks(tmp_path, hook, ema):
    hooks = [dict(type='EMAHook', momentum=0.3)] if ema else []
    path, state = pretrain(tmp_path, hook, custom_hooks=hooks)
    model = initialised('mmseg', checkpoint=str(path))
    with torch.serialization.safe_globals(get_torch_safe_globals()):  # the real types, to see what is in the file
        saved = torch.load(path, weights_only=True)['state_dict']
    weight = 'layers.2.attn.qkv.weight'
    assert torch.equal(model.backbone.state_dict()[weight], saved[f'backbone.{weight}'])
    # EMAHook leaves the last weights in the model and writes the average as state_dict.
    assert torch.equal(saved[f'backbone.{weight}'], state[f'backbone.{weight}']) == (not ema)


# ---- mistakes stop the run ------------------------------------------------------------------------------------------

MISTAKES = {
    'prefix': (dict(), dict(prefix='encoder.'), 'encoder'),
    'arch': (dict(arch=dict(ARCH, num_layers=6)), dict(), 'num_layers=4'),
    'patch size': (dict(patch_size=10), dict(), 'patch_size=8'),
}


@pytest.mark.parametrize('init', ['StrictPretrained', 'Pretrained'])
@pytest.mark.parametrize('library', LIBRARIES)
@pytest.mark.parametrize('mistake', [None, *MISTAKES])
def test_mistake_stops_the_runner_before_the_first_step(tmp_path, pretrained, library, mistake, init):
    options, where, message = MISTAKES[mistake] if mistake else ({}, {}, None)
    init_cfg = dict(type=init, checkpoint=str(pretrained[0]), **({'prefix': 'backbone.'} | where))
    run = runner(
        model_config(library, **options, init_cfg=init_cfg).model,
        tmp_path,
        default_scope=library,
        custom_hooks=[dict(type='mmengine.StopAtFirstStep')],
    )
    vit = run.model.backbone
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    if mistake is None:  # without it, the same run comes to its first step
        with pytest.raises(StepTaken):
            run.train()
        assert torch.equal(vit.layers[1].attn.qkv.weight, pretrained[1]['backbone.layers.1.attn.qkv.weight'])
        return
    with pytest.raises(ValueError, match=message):
        run.train()
    assert run.iter == 0
    for key, value in vit.state_dict().items():
        assert torch.equal(value, before[key]), f'{key} was loaded by half'


def test_flexible_runner_stops_as_well(tmp_path, pretrained):
    options = MISTAKES['arch'][0]
    init_cfg = dict(type='StrictPretrained', checkpoint=str(pretrained[0]))
    run = FlexibleRunner(
        model=model_config('mmpretrain', **options, init_cfg=init_cfg).model,
        strategy=dict(type='SingleDeviceStrategy'),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            dataset=dict(type='mmengine.NoiseImages'),
            sampler=dict(type='InfiniteSampler', shuffle=True),
            batch_size=2,
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
        default_scope='mmpretrain',
        custom_hooks=[dict(type='mmengine.StopAtFirstStep')],
        log_level='WARNING',
        experiment_name='flexible_stop',
    )
    with pytest.raises(ValueError, match='num_layers=4 in the file, 6 in the backbone'):
        run.train()
    assert run.iter == 0


def test_names_resolve_in_every_library(pretrained):
    for library in LIBRARIES:
        vit = build(library).backbone
        assert (type(vit).__name__, vit.embed_dims) == ('RandSACViT', DIMS)
    assert backbone()['type'] == 'mmpretrain.RandSACViT'
