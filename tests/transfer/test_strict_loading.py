"""Contract: a backbone is loaded bit for bit with every key accounted for, or left unchanged with a reason."""

import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.model import BaseModule, PretrainedInit
from torch import nn
from transfer.three_models import ARCH, DIMS, PATCH, SIZE, make

from randsac_mm.models.positions import sincos_positions
from randsac_mm.transfer import load_backbone, load_model
from randsac_mm.transfer.backbone_keys import collapse, generalise, match


def save(path, state):
    torch.save(dict(state_dict=state), path)
    return path


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def check_report(report, vit, path):
    """Every key of either side is in exactly one place, and what was loaded is equal."""
    content = torch.load(path, weights_only=True)['state_dict']
    assert sorted([*report.loaded, *report.missing]) == sorted(vit.state_dict())
    assert sorted([*(report.prefix + key for key in report.loaded), *report.unused]) == sorted(content)
    for key in report.loaded:
        assert torch.equal(vit.state_dict()[key], content[report.prefix + key]), key


def assert_equal(module, state):
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key


def refused(path, *parts, vit=None, **options):
    """Assert that loading is refused with all these parts in the error, and changes nothing."""
    vit = vit or make()
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    with pytest.raises(ValueError, match=re.escape(str(parts[0]))) as raised:
        load_backbone(vit, path, **options)
    for part in parts:
        assert part in str(raised.value)
    assert_equal(vit, before)


def test_pretraining_checkpoint(pretrained):
    path, state = pretrained
    vit = make()
    report = load_backbone(vit, path)
    check_report(report, vit, path)
    assert (report.path, report.prefix, report.resized, report.missing) == (str(path), 'backbone.', [], [])
    assert set(report.unused) == {key for key in state if key.startswith(('neck.', 'head.'))}
    assert str(path) in str(report)
    assert 'layers.*.attn.qkv.weight (4)' in str(report)


def test_grid_of_the_checkpoint_is_adopted(pretrained):
    vit = make(img_size=(3 * PATCH, 7 * PATCH))
    check_report(load_backbone(vit, pretrained[0]), vit, pretrained[0])
    assert torch.equal(vit.pos_embed, sincos_positions((SIZE // PATCH, SIZE // PATCH), DIMS))


def test_norm_of_a_classifier_is_new_or_unused(tmp_path, pretrained):
    classifier = make(out_type='avg_featmap')
    before = classifier.state_dict()['ln2.weight'].clone()
    report = load_backbone(classifier, pretrained[0])
    check_report(report, classifier, pretrained[0])
    assert set(report.missing) == {'ln2.weight', 'ln2.bias'}
    assert torch.equal(classifier.ln2.weight, before), 'keeps its initial value'

    state = prefixed('backbone.', classifier.state_dict())
    path = save(tmp_path / 'classifier.pth', state)
    segmentor = make()
    report = load_backbone(segmentor, path)
    check_report(report, segmentor, path)
    assert set(report.unused) == {'backbone.ln2.weight', 'backbone.ln2.bias'}
    del state['backbone.ln2.bias']
    refused(save(tmp_path / 'half.pth', state), 'ln2.bias', vit=classifier)


def test_final_norm_may_be_unused_but_not_missing(tmp_path, pretrained):
    bare = make(final_norm=False)
    check_report(load_backbone(bare, pretrained[0]), bare, pretrained[0])
    path = save(tmp_path / 'bare.pth', bare.state_dict())
    refused(path, 'ln1.bias', 'ln1.weight')
    assert load_backbone(make(), path, allow_missing='ln1.*').missing == ['ln1.bias', 'ln1.weight']


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.', 'module.backbone.', 'online.encoder.vit.'])
def test_prefix_is_found_or_given(tmp_path, prefix):
    path = save(tmp_path / 'a.pth', prefixed(prefix, make().state_dict()) | {'other.weight': torch.zeros(1)})
    allowed = dict(allow_unexpected='other.weight') if not prefix else {}  # nothing is outside an empty prefix
    for given_prefix in (None, prefix):
        vit = make()
        report = load_backbone(vit, path, prefix=given_prefix, **allowed)
        check_report(report, vit, path)
        assert report.prefix == prefix


def test_backbone_comes_before_a_teacher_and_others_must_be_named(tmp_path):
    student, teacher, vit = make().state_dict(), make().state_dict(), make()
    path = save(tmp_path / 'a.pth', prefixed('teacher.', teacher) | prefixed('backbone.', student))
    assert load_backbone(vit, path).prefix == 'backbone.'
    assert_equal(vit, student)
    load_backbone(vit, path, prefix='teacher')
    assert_equal(vit, teacher)
    both = prefixed('teacher.', teacher) | prefixed('student.', student)
    refused(save(tmp_path / 'b.pth', both), 'teacher.', 'student.')


def test_exceptions_that_a_config_names(tmp_path):
    state = make().state_dict() | {'extra.a': torch.zeros(1), 'extra.b': torch.zeros(2)}
    for i in (0, 2):
        del state[f'layers.{i}.ffn.layers.1.bias']
    path = save(tmp_path / 'a.pth', state)
    vit = make()
    before = vit.layers[2].ffn.layers[1].bias.clone()
    report = load_backbone(vit, path, allow_missing=['layers.*.ffn.layers.1.bias'], allow_unexpected=['extra.*'])
    check_report(report, vit, path)
    assert report.missing == ['layers.0.ffn.layers.1.bias', 'layers.2.ffn.layers.1.bias']
    assert report.unused == ['extra.a', 'extra.b']
    assert torch.equal(vit.layers[2].ffn.layers[1].bias, before)


SIZES = [
    (dict(arch=dict(ARCH, embed_dims=20)), 'embed_dims=16 in the file, 20'),
    (dict(arch=dict(ARCH, num_layers=6)), 'num_layers=4 in the file, 6'),
    (dict(arch=dict(ARCH, feedforward_channels=29)), 'feedforward_channels=23 in the file, 29'),
    (dict(patch_size=10), 'patch_size=8 in the file, 10'),
    (dict(in_channels=1), 'in_channels=3 in the file, 1'),
]


@pytest.mark.parametrize(('options', 'size'), SIZES, ids=str)
def test_another_size(tmp_path, options, size):
    path = save(tmp_path / 'a.pth', prefixed('backbone.', make().state_dict()))
    refused(path, size, vit=make(**options))
    refused(path, size, vit=make(**options), allow_missing='*', allow_unexpected='*')  # naming keys does not help


def test_another_network(tmp_path):
    state = {'backbone.conv1.weight': torch.zeros(2), 'head.fc.weight': torch.zeros(2)}
    refused(save(tmp_path / 'resnet.pth', state), 'patch_embed.projection.weight', 'backbone, head')


CHANGES = {
    'cls_token': (torch.zeros(1, 1, DIMS), ()),
    'pos_embed': (torch.randn(1, 25, DIMS), ()),
    'layers.2.attn.proj.bias': (torch.zeros(3), ('[3]', '[16]')),
}


@pytest.mark.parametrize('name', CHANGES)
def test_one_tensor_that_does_not_fit(tmp_path, name):
    value, shapes = CHANGES[name]
    refused(save(tmp_path / 'a.pth', make().state_dict() | {name: value}), name, *shapes)


def test_missing_and_unexpected_keys_are_listed_with_the_option(tmp_path):
    state = make().state_dict()
    for i in range(4):
        state[f'layers.{i}.ffn.extra.weight'] = state.pop(f'layers.{i}.ffn.layers.1.weight')
    del state['ln1.bias']
    path = save(tmp_path / 'a.pth', state)
    allowed = "allow_missing=['layers.*.ffn.layers.1.weight', 'ln1.bias']", "allow_unexpected=['layers.*.ffn.extra"
    refused(path, 'layers.*.ffn.layers.1.weight (4), ln1.bias', 'layers.*.ffn.extra.weight (4)', *allowed)


def test_patterns_and_prefixes_that_match_nothing(tmp_path):
    state = prefixed('model.backbone.', make().state_dict() | {'a.weight': torch.zeros(1)})
    path = save(tmp_path / 'a.pth', state)
    refused(path, "allow_missing='ln3.*'", allow_missing=['ln3.*'], allow_unexpected='a.weight')
    refused(path, "allow_unexpected='b.*'", 'a.weight', allow_unexpected=['a.*', 'b.*'])
    for prefix in ('backbone.', 'model.', '', 'model.head'):
        refused(path, f"prefix='{prefix}", 'model.backbone.', prefix=prefix)


def test_number_of_heads_is_read_from_the_config_in_the_file(tmp_path):
    state, vit = make().state_dict(), make(arch=dict(ARCH, num_heads=2))
    path = tmp_path / 'a.pth'
    for arch, heads in ((f'dict({", ".join(f"{k}={v}" for k, v in ARCH.items())})', 4), ("'deit-tiny'", 3)):
        text = f'model = dict(backbone=dict(arch={arch}, img_size=40))\nimport no_such_module\n'
        torch.save(dict(state_dict=state, meta=dict(cfg=text)), path)
        refused(path, f'num_heads={heads}', '2 in the backbone', vit=vit)
    torch.save(dict(state_dict=state, meta=dict(cfg='model = (')), path)  # no config: nothing to compare
    assert load_backbone(vit, path).loaded


def test_backbone_of_another_kind_is_strict_as_well(tmp_path):
    class Net(BaseModule):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.stem = nn.Linear(2, 3)
            self.body = nn.ModuleList([nn.Linear(3, 3) for _ in range(2)])

    source = Net()
    state = prefixed('model.backbone.', source.state_dict())
    net = Net(init_cfg=dict(type='StrictPretrained', checkpoint=str(save(tmp_path / 'a.pth', state))))
    net.init_weights()
    assert torch.equal(net.body[1].weight, source.body[1].weight)
    del state['model.backbone.body.1.bias']
    state['model.backbone.body.0.weight'] = torch.zeros(3, 2)
    refused(save(tmp_path / 'b.pth', state), 'body.1.bias', 'body.0.weight', vit=Net())


def test_a_model_is_loaded_whole_or_not_at_all(tmp_path):
    def build():
        return nn.ModuleDict(dict(backbone=make(), head=nn.Linear(DIMS, 3)))

    source, model, path = build().state_dict(), build(), tmp_path / 'a.pth'
    torch.save(dict(state_dict=source, meta=dict(epoch=3)), path)
    assert load_model(model, path) == dict(epoch=3)
    assert_equal(model, source)
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    without_head = {key: value for key, value in source.items() if not key.startswith('head')}
    changed = [source | {'head.extra': torch.zeros(1)}, source | {'head.weight': torch.zeros(2, 2)}, without_head]
    for state, message in zip(changed, ('head.extra', 'head.weight', 'has no head'), strict=True):
        with pytest.raises(ValueError, match=message):
            load_model(model, save(path, state))
        assert_equal(model, before)


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained', PretrainedInit])
def test_pretrained_means_strict_and_comes_last(pretrained, kind):
    cfg = dict(type=kind, checkpoint=str(pretrained[0]), map_location='cpu')
    init_cfg = [cfg, dict(type='Constant', layer='Linear', val=3.0)]
    vit = make(init_cfg=init_cfg)
    vit.init_weights()
    assert_equal(vit, {key.removeprefix('backbone.'): value for key, value in pretrained[1].items()})
    assert init_cfg[0]['type'] is kind, 'the config is not changed'
    with pytest.raises(ValueError, match='num_layers=4'):
        make(arch=dict(ARCH, num_layers=5), init_cfg=cfg).init_weights()


part = st.one_of(st.integers(0, 30).map(str), st.text('abz_', min_size=1, max_size=3))
names = st.lists(st.lists(part, min_size=1, max_size=5).map('.'.join), unique=True, max_size=40)


@given(names)
def test_suggested_patterns_match_the_names_they_were_made_from(names):
    assert match(names, generalise(names), 'allow_missing') == set(names)


@given(names)
def test_collapsed_names_account_for_every_name(names):
    counts = [re.fullmatch(r'.* \((\d+)\)', text) for text in collapse(names)]
    assert sum(int(count[1]) if count else 1 for count in counts) == len(names)
