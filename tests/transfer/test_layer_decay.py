"""Contract: every trainable parameter is in one group; its learning rate depends on its depth, not on the library."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from torch import nn
from transfer.three_models import LIBRARIES, build, make, model_config, runner

from randsac_mm.engine import AutocastOptimWrapper

LR, WD, RATE = 7e-4, 0.05, 0.65
# The backbone of 4 layers has 6 depths: decay ** (4 + 1 - depth).
SCALES = {
    'patch_embed': 0.1160290625,  # 0.65 ** 5
    'layers.0': 0.17850625,
    'layers.1': 0.274625,
    'layers.2': 0.4225,
    'layers.3': 0.65,
    'ln1': 1.0,
}


def config(type='OptimWrapper', constructor='LayerDecayOptimWrapperConstructor', **paramwise):
    return dict(
        type=type,
        constructor=constructor,
        optimizer=dict(type='AdamW', lr=LR, weight_decay=WD),
        paramwise_cfg=dict(layer_decay_rate=RATE, norm_decay_mult=0.0, bias_decay_mult=0.0) | paramwise,
    )


def group_of(model, wrapper):
    """The group of each trainable parameter by name; asserts that there is exactly one."""
    found = {}
    for name, parameter in model.named_parameters():
        groups = [group for group in wrapper.optimizer.param_groups if any(parameter is p for p in group['params'])]
        assert len(groups) == (1 if parameter.requires_grad else 0), f'{name} is in {len(groups)} groups'
        if groups:
            found[name] = groups[0]
    assert sum(len(group['params']) for group in wrapper.optimizer.param_groups) == len(found)
    return found


def part_of(name):
    """The part of the backbone, a key of ``SCALES``, that a parameter belongs to."""
    parts = name.removeprefix('backbone.').split('.')
    return '.'.join(parts[: 2 if parts[0] == 'layers' else 1])


def test_scales_agree_in_three_libraries_and_with_the_table():
    scales = {}
    for library in LIBRARIES:
        model = build(library)
        groups = group_of(model, build_optim_wrapper(model, config()))
        inside = {name: group['lr_scale'] for name, group in groups.items() if name.startswith('backbone.')}
        assert {group['lr_scale'] for name, group in groups.items() if name not in inside} == {1}, 'the head'
        assert all(group['lr'] == LR * group['lr_scale'] for group in groups.values())
        assert 'backbone.pos_embed' not in groups, 'fixed positions are not trained'
        for name, scale in inside.items():
            assert scale == pytest.approx(SCALES[part_of(name)], rel=1e-12), name
        assert {part_of(name) for name in inside} == set(SCALES)
        scales[library] = inside
    assert scales['mmpretrain'] == scales['mmseg'] == scales['mmdet']


def test_agrees_with_mmpretrains_own_constructor():
    for vit in (dict(), dict(out_type='avg_featmap')):
        model = build('mmpretrain', **vit)
        ours = group_of(model, build_optim_wrapper(model, config()))
        own = config(constructor='mmpretrain.LearningRateDecayOptimWrapperConstructor')
        theirs = group_of(model, build_optim_wrapper(model, own))
        assert ours.keys() == theirs.keys()
        for name in ours:
            for key in ('lr', 'lr_scale', 'weight_decay'):
                assert ours[name][key] == pytest.approx(theirs[name][key], rel=1e-12), (name, key)


def test_positions_tokens_tables_and_layer_scales_do_not_decay():
    special = ('cls_token', 'pos_embed', 'relative_position_bias_table', 'gamma_1', 'gamma_2')
    model = nn.ModuleDict(dict(backbone=make()))
    for name in special:
        setattr(model.backbone, name, nn.Parameter(torch.zeros(2, 2)))
    wrapper = build_optim_wrapper(model, dict(config(), paramwise_cfg=dict(layer_decay_rate=RATE)))
    for name, group in group_of(model, wrapper).items():
        assert group['weight_decay'] == (0 if name.rpartition('.')[2] in special else WD), name
    custom = dict(pos_embed=dict(decay_mult=1.0))
    groups = group_of(model, build_optim_wrapper(model, config(custom_keys=custom)))
    assert groups['backbone.pos_embed']['weight_decay'] == WD


@pytest.mark.parametrize('stages', [-1, 0, 2, 4])
def test_frozen_parameters_are_in_no_group(stages):
    model = build('mmseg', frozen_stages=stages)
    groups = group_of(model, build_optim_wrapper(model, config()))
    assert any(name.startswith('backbone.layers.0') for name in groups) == (stages < 1)
    assert any(name.startswith('backbone.ln1') for name in groups) == (stages < 4)


def test_model_wrapped_for_several_processes(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/sync', rank=0, world_size=1)
    try:
        model = build('mmdet')
        wrapped = MMDistributedDataParallel(model, device_ids=None)
        plain, found = (group_of(model, build_optim_wrapper(m, config())) for m in (model, wrapped))
    finally:
        torch.distributed.destroy_process_group()
    assert [group['name'] for group in found.values()] == [group['name'] for group in plain.values()]


def test_shared_parameters_are_in_the_group_of_the_first():
    model = nn.ModuleDict(dict(backbone=make(), head=nn.Linear(2, 2)))
    model.head.weight = model.backbone.layers[1].attn.qkv.weight
    model.again = model.backbone.layers[1]
    groups = group_of(model, build_optim_wrapper(model, config()))
    assert groups['backbone.layers.1.attn.qkv.weight']['lr_scale'] == pytest.approx(SCALES['layers.1'])


@given(
    rate=st.floats(0.01, 1.0),
    norm=st.sampled_from([0.0, 0.5, 1.0]),
    bias=st.sampled_from([0.0, 0.5, 1.0]),
    flat=st.sampled_from([0.0, 2.0]),
)
def test_any_options_cover_every_parameter_once(rate, norm, bias, flat):
    model = nn.ModuleDict(dict(backbone=make(), neck=nn.Linear(3, 3)))
    model.neck.scale = nn.Parameter(torch.ones(3))
    options = dict(layer_decay_rate=rate, norm_decay_mult=norm, bias_decay_mult=bias, flat_decay_mult=flat)
    groups = group_of(model, build_optim_wrapper(model, config(**options)))
    for name, group in groups.items():
        power = round(math.log(SCALES.get(part_of(name), 1.0), RATE))
        assert group['lr_scale'] == pytest.approx(rate**power)
    assert groups['neck.scale']['weight_decay'] == pytest.approx(WD * flat)
    assert groups['neck.bias']['weight_decay'] == pytest.approx(WD * bias)
    assert groups['backbone.ln1.bias']['weight_decay'] == pytest.approx(WD * norm)
    assert groups['neck.weight']['weight_decay'] == pytest.approx(WD)


def test_custom_keys_come_first_and_the_longest_counts():
    model = build('mmseg')
    custom = {
        'decode_head': dict(lr_mult=10.0),
        'decode_head.conv_seg': dict(lr_mult=2.0, decay_mult=0.5),
        'layers.1.': dict(lr_mult=0.0),
        'qkv.bias': dict(decay_mult=1.0),
    }
    groups = group_of(model, build_optim_wrapper(model, config(custom_keys=custom)))
    found = {
        name: (group['lr_scale'], group['weight_decay'])
        for name, group in groups.items()
        if name.startswith(('decode_head.conv_seg', 'decode_head.bottleneck.conv', 'backbone.layers.1.attn.qkv'))
    }
    assert found == {
        'decode_head.conv_seg.weight': (2.0, WD / 2),
        'decode_head.conv_seg.bias': (2.0, WD / 2),
        'decode_head.bottleneck.conv.weight': (10.0, WD),
        'backbone.layers.1.attn.qkv.weight': (0.0, WD),
        'backbone.layers.1.attn.qkv.bias': (0.0, 0.0),  # 'layers.1.' is longer than 'qkv.bias'
    }
    assert groups['backbone.layers.2.attn.qkv.bias']['weight_decay'] == WD
    assert groups['decode_head.conv_seg.weight']['name'] == 'depth_5_decay_x0.5_lr_x2'


@pytest.mark.usefixtures('has_bfloat16')
@pytest.mark.parametrize('kind', ['OptimWrapper', 'AutocastOptimWrapper'])
def test_trains_with_a_schedule_and_resumes(tmp_path, kind):
    schedule = [
        dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=2),
        dict(type='PolyLR', eta_min=0.0, power=1.0, by_epoch=False, begin=2, end=20),
    ]

    checkpoint = dict(type='ResumableCheckpointHook', by_epoch=False, interval=1, keep_schedule=True)

    def run(folder, iters, **options):
        return runner(
            model_config('mmpretrain').model,
            folder,
            max_iters=iters,
            optim_wrapper=config(type=kind),
            param_scheduler=schedule,
            default_hooks=dict(checkpoint=checkpoint),
            **options,
        )

    whole = run(tmp_path / 'whole', 5)
    whole.train()
    assert isinstance(whole.optim_wrapper, AutocastOptimWrapper) == (kind == 'AutocastOptimWrapper')
    groups = whole.optim_wrapper.optimizer.param_groups
    factors = {group['lr'] / group['lr_scale'] for group in groups}
    assert max(factors) - min(factors) < 1e-12, 'schedules scale all groups alike'
    assert 0 < max(factors) < LR
    assert whole.message_hub.get_scalar('train/base_lr').current() == pytest.approx(
        whole.message_hub.get_scalar('train/lr').current()
    ), 'the logged group is the one of full learning rate'

    run(tmp_path / 'parts', 3).train()
    resumed = run(tmp_path / 'parts', 5, resume=True)
    resumed.train()
    for one, other in zip(groups, resumed.optim_wrapper.optimizer.param_groups, strict=True):
        assert {k: v for k, v in one.items() if k != 'params'} == {k: v for k, v in other.items() if k != 'params'}
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[key]), key


BAD = [
    (None, 'layer_decay_rate'),
    (dict(decay_rate=0.65), 'decay_rate'),  # the name of mmseg
    (dict(layer_decay_rate=0.65, norm_decay_mul=0.0), "'norm_decay_mul'"),
    (dict(layer_decay_rate=0), 'layer_decay_rate=0 '),
    (dict(layer_decay_rate=1.1), 'layer_decay_rate=1.1'),
    (dict(layer_decay_rate='0.65'), "'0.65'"),
    (dict(layer_decay_rate=True), 'True'),
    (dict(layer_decay_rate=float('nan')), 'nan'),
    (dict(layer_decay_rate=1, bias_decay_mult=-1), 'bias_decay_mult=-1'),
    (dict(layer_decay_rate=1, custom_keys=dict(head=dict(lr_mul=2))), 'lr_mul'),
    (dict(layer_decay_rate=1, custom_keys=dict(head=dict(lr_mult=None))), 'lr_mult=None'),
    (dict(layer_decay_rate=1, custom_keys=dict(head=2.0)), 'dict of dicts'),
    (dict(layer_decay_rate=1, custom_keys=dict(decode_hed=dict(lr_mult=10.0))), 'decode_hed'),
]


@pytest.mark.parametrize(('paramwise', 'value'), BAD, ids=str)
def test_options_that_are_refused(paramwise, value):
    with pytest.raises(ValueError, match=value):
        build_optim_wrapper(build('mmpretrain'), dict(config(), paramwise_cfg=paramwise))


@pytest.mark.parametrize('key', ['lr', 'weight_decay'])
def test_optimizer_must_have_what_is_multiplied(key):
    cfg = config()
    del cfg['optimizer'][key]
    with pytest.raises(ValueError, match=key):
        build_optim_wrapper(build('mmpretrain'), cfg)


def test_models_without_depths():
    model = nn.ModuleDict(dict(backbone=nn.Linear(1, 1)))
    with pytest.raises(ValueError, match='get_layer_depth'):
        build_optim_wrapper(model, config())
    for depth in (-1, 3):
        model.backbone.get_layer_depth = lambda name, prefix, depth=depth: (depth, 3)
        with pytest.raises(ValueError, match=rf'\({depth}, 3\)'):
            build_optim_wrapper(model, config())
