"""Contract: one checkpoint gives the same features in mmpretrain, mmseg and mmdet, or the run never starts."""

import pytest
import torch
from engine.toy_engine import Interrupted
from mmengine.runner import FlexibleRunner
from mmengine.runner.checkpoint import get_torch_safe_globals
from safetensors.torch import save_file
from transfer.three_models import ARCH, LIBRARIES, PATCH, SIZE, build, initialised, model_config, pretrain, runner

SIZES = [(SIZE, SIZE), (3 * PATCH, 7 * PATCH)]


@torch.no_grad()
def features(vit, size):
    torch.manual_seed(1)
    return vit.eval()(torch.randn(2, 3, *size))


def assert_same_features(found, expected):
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def flat(state):
    return {key.removeprefix('backbone.'): value for key, value in state.items() if key.startswith('backbone.')}


def pretrained_backbone(state):
    """The model that wrote the checkpoint, made without the code under test."""
    vit = build('mmpretrain').backbone
    vit.load_state_dict(flat(state))
    return vit


@pytest.mark.parametrize('size', SIZES, ids=str)
@pytest.mark.parametrize('prefix', [None, 'backbone.', 'backbone'])
def test_features_are_equal_bit_for_bit(pretrained, prefix, size):
    path, state = pretrained
    expected = features(pretrained_backbone(state), size)
    for library in LIBRARIES:
        model = initialised(library, checkpoint=str(path), prefix=prefix)
        assert_same_features(features(model.backbone, size), expected)
        different = features(build(library).backbone, size)
        assert not torch.equal(different[0], expected[0]), 'the comparison must be able to fail'


KINDS = {
    'exported': flat,
    'exported, state_dict': lambda state: dict(state_dict=flat(state)),
    'exported, model': lambda state: dict(model=flat(state), args='none'),
    'distributed': lambda state: dict(state_dict={f'module.{key}': value for key, value in state.items()}),
    'optimizer besides': lambda state: dict(optimizer=dict(state={0: torch.zeros(3)}), state_dict=state),
}


def write(kind, path, state):
    """Write the weights as somebody else would; return the file's path."""
    if kind == 'safetensors':
        path = path.with_suffix('.safetensors')
        save_file({key: value.contiguous() for key, value in flat(state).items()}, path)
    elif kind in LIBRARIES:  # a model that was trained on, with its head, as its runner writes it
        model = build(kind)
        model.backbone.load_state_dict(flat(state))
        torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=3)), path)
    else:
        torch.save(KINDS[kind](state), path)
    return str(path)


@pytest.mark.parametrize('kind', [*LIBRARIES, *KINDS, 'safetensors'])
def test_every_kind_of_checkpoint_gives_these_features(tmp_path, pretrained, kind):
    path = write(kind, tmp_path / 'a.pth', pretrained[1])
    expected = features(pretrained_backbone(pretrained[1]), SIZES[1])
    for library in LIBRARIES:
        assert_same_features(features(initialised(library, checkpoint=path).backbone, SIZES[1]), expected)


def test_half_precision_is_read_into_full_precision(tmp_path, pretrained):
    state = {key: value.bfloat16() for key, value in pretrained[1].items()}
    model = initialised('mmseg', checkpoint=write('exported', tmp_path / 'a.pth', state))
    for name, value in flat(state).items():
        found = model.backbone.state_dict()[name]
        assert found.dtype == torch.float32
        assert torch.equal(found, value.float()) or name == 'pos_embed', name


@pytest.mark.parametrize('hook', ['CheckpointHook', 'ResumableCheckpointHook'])
@pytest.mark.parametrize('ema', [False, True], ids=['', 'averaged'])
def test_checkpoints_of_both_hooks(tmp_path, hook, ema):
    """mmengine's own stores numpy scalars and HistoryBuffer in the file."""
    path, state = pretrain(tmp_path, hook, custom_hooks=[dict(type='EMAHook', momentum=0.3)] if ema else [])
    model = initialised('mmseg', checkpoint=str(path))
    with torch.serialization.safe_globals(get_torch_safe_globals()):  # the real types, to see what is in the file
        saved = torch.load(path, weights_only=True)['state_dict']
    weight = 'layers.2.attn.qkv.weight'
    assert torch.equal(model.backbone.state_dict()[weight], saved[f'backbone.{weight}'])
    # EMAHook leaves the last weights in the model and writes the average as state_dict.
    assert torch.equal(saved[f'backbone.{weight}'], state[f'backbone.{weight}']) == (not ema)


@pytest.mark.parametrize('init', ['StrictPretrained', 'Pretrained'])
@pytest.mark.parametrize('library', [*LIBRARIES, 'FlexibleRunner'])
@pytest.mark.parametrize('mistake', [None, 'prefix', 'depth'])
def test_mistake_stops_the_runner_before_the_first_step(tmp_path, pretrained, library, mistake, init):
    options = dict(arch=dict(ARCH, num_layers=6)) if mistake == 'depth' else {}
    prefix = 'encoder.' if mistake == 'prefix' else 'backbone.'
    init_cfg = dict(type=init, checkpoint=str(pretrained[0]), prefix=prefix)
    stop = [dict(type='mmengine.Interrupt', iteration=0)]
    if library == 'FlexibleRunner':
        model = model_config('mmpretrain', **options, init_cfg=init_cfg).model
        strategy = dict(type='SingleDeviceStrategy')
        run = runner(model, tmp_path, FlexibleRunner, strategy=strategy, custom_hooks=stop)
    else:
        model = model_config(library, **options, init_cfg=init_cfg).model
        run = runner(model, tmp_path, default_scope=library, custom_hooks=stop)
    if mistake is None:  # without it, the same run comes to its first step
        with pytest.raises(Interrupted):
            run.train()
        found = run.model.backbone.state_dict()['layers.1.attn.qkv.weight']
        assert torch.equal(found, pretrained[1]['backbone.layers.1.attn.qkv.weight'])
        return
    with pytest.raises(ValueError, match='encoder' if mistake == 'prefix' else 'num_layers=4 in the file, 6'):
        run.train()
    assert run.iter == 0
