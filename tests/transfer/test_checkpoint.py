"""Contract: every key of a checkpoint and of a backbone stands in the report; what is loaded is equal bit for bit."""

import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mmengine.logging import MMLogger
from mmengine.model import BaseModule, PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from mmpretrain.registry import MODELS
from transfer.three_models import ARCH, DIMS, PATCH, SIZE, build, make, pretrain_config, runner

from randsac_mm.models.positions import sincos_positions
from randsac_mm.transfer import StrictPretrained, load_backbone
from randsac_mm.transfer.strict_loading import strict_init_cfg
from randsac_mm.transfer.names import choose, collapse, generalise


def save(path, state):
    torch.save(dict(state_dict=state), path)
    return path


def prefixed(prefix, state):
    return {prefix + key: value for key, value in state.items()}


def check_report(report, vit, path):
    """Every key of either side is in exactly one place."""
    content = torch.load(path, weights_only=True)['state_dict']
    assert sorted([*report.loaded, *report.resized, *report.missing]) == sorted(vit.state_dict())
    used = [report.prefix + key for key in report.loaded] + [report.prefix + key for key in report.resized]
    assert sorted([*used, *report.dropped]) == sorted(content)
    for key in report.loaded:
        assert torch.equal(vit.state_dict()[key], content[report.prefix + key]), key


# ---- the report -----------------------------------------------------------------------------------------------------


def test_report_of_a_pretraining_checkpoint(pretrained):
    path, state = pretrained
    vit = make()
    report = load_backbone(vit, path)
    check_report(report, vit, path)
    assert (report.path, report.prefix) == (str(path), 'backbone.')
    assert report.loaded == list(vit.state_dict()), 'same grid: even positions are those of the file'
    assert not report.resized
    assert not report.missing
    assert set(report.dropped) == {key for key in state if key.startswith(('neck.', 'head.'))}
    assert set(report.dropped.values()) == {"outside the prefix 'backbone.'"}


def test_summary_is_short_and_names_everything(pretrained):
    text = str(load_backbone(make(img_size=64), pretrained[0]))
    assert len(text.splitlines()) == 4
    assert "prefix 'backbone.': 52 tensors loaded, 1 converted, 53 not used, 0 missing\n" in text
    assert 'layers.{0-3}.attn.qkv.weight, layers.{0-3}.attn.qkv.bias' in text
    assert "converted, fixed positions, made for the backbone's grid: pos_embed\n" in text
    assert text.endswith("not used, outside the prefix 'backbone.': neck.* (51), head.* (2)")


def test_fixed_positions_are_those_of_the_own_grid(pretrained):
    vit = make(img_size=(3 * PATCH, 7 * PATCH))
    report = load_backbone(vit, pretrained[0])
    check_report(report, vit, pretrained[0])
    assert list(report.resized) == ['pos_embed']
    assert torch.equal(vit.pos_embed, sincos_positions((3, 7), DIMS))


def test_norm_of_a_classifier_is_new_or_dropped(tmp_path, pretrained):
    classifier = make(out_type='avg_featmap')
    with torch.no_grad():
        classifier.ln2.weight.fill_(7)
    before = classifier.state_dict()['ln2.weight'].clone()
    report = load_backbone(classifier, pretrained[0])
    check_report(report, classifier, pretrained[0])
    assert set(report.missing) == {'ln2.weight', 'ln2.bias'}
    assert torch.equal(classifier.ln2.weight, before), 'keeps its initial value'

    path = save(tmp_path / 'classifier.pth', prefixed('backbone.', classifier.state_dict()))
    segmentor = make()
    report = load_backbone(segmentor, path)
    check_report(report, segmentor, path)
    assert set(report.dropped) == {'backbone.ln2.weight', 'backbone.ln2.bias'}
    assert "only a backbone with out_type='avg_featmap' has it" in report.dropped['backbone.ln2.bias']
    other = make(out_type='avg_featmap')
    assert not load_backbone(other, path).missing
    assert torch.equal(other.ln2.weight, before)


def test_last_norm_is_dropped_where_the_backbone_has_none_but_never_made_up(tmp_path, pretrained):
    bare = make(final_norm=False)
    report = load_backbone(bare, pretrained[0])
    check_report(report, bare, pretrained[0])
    assert {key for key, why in report.dropped.items() if 'final_norm=False' in why} == {
        'backbone.ln1.weight',
        'backbone.ln1.bias',
    }
    path = save(tmp_path / 'bare.pth', bare.state_dict())
    with pytest.raises(ValueError, match=r"missing in the file: \['ln1.bias', 'ln1.weight'\]"):
        load_backbone(make(), path)
    report = load_backbone(make(), path, allow_missing='ln1.*')
    assert report.missing == {'ln1.weight': 'allow_missing', 'ln1.bias': 'allow_missing'}


def test_half_of_a_norm_is_an_error(tmp_path):
    state = make(out_type='avg_featmap').state_dict()
    del state['ln2.bias']
    with pytest.raises(ValueError, match=r"missing in the file: \['ln2.bias'\]"):
        load_backbone(make(out_type='avg_featmap'), save(tmp_path / 'a.pth', state))


# ---- prefixes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.', 'module.backbone.', 'online.encoder.vit.'])
def test_prefix_is_found_and_may_be_given(tmp_path, prefix):
    source = make()
    path = save(tmp_path / 'a.pth', {**prefixed(prefix, source.state_dict()), 'other.weight': torch.zeros(1)})
    allowed = dict(allow_unexpected='other.weight') if not prefix else {}  # nothing is outside an empty prefix
    for given_prefix in (None, prefix):
        vit = make()
        report = load_backbone(vit, path, prefix=given_prefix, **allowed)
        check_report(report, vit, path)
        assert report.prefix == prefix
        assert torch.equal(vit.ln1.weight, source.ln1.weight)


def test_backbone_comes_before_a_teacher_and_others_must_be_named(tmp_path):
    student, teacher = make(), make()
    assert not torch.equal(student.ln1.weight, teacher.ln1.weight)
    both = {**prefixed('teacher.', teacher.state_dict()), **prefixed('backbone.', student.state_dict())}
    vit = make()
    assert load_backbone(vit, save(tmp_path / 'a.pth', both)).prefix == 'backbone.'
    assert torch.equal(vit.ln1.weight, student.ln1.weight)
    load_backbone(vit, tmp_path / 'a.pth', prefix='teacher')
    assert torch.equal(vit.ln1.weight, teacher.ln1.weight)

    both = {**prefixed('teacher.', teacher.state_dict()), **prefixed('student.', student.state_dict())}
    with pytest.raises(ValueError, match=r"several backbones, under \['teacher.', 'student.'\]. Name one of these"):
        load_backbone(vit, save(tmp_path / 'b.pth', both))
    del both['teacher.ln1.bias']
    assert load_backbone(vit, save(tmp_path / 'c.pth', both)).prefix == 'student.', 'the more complete one'


# ---- exceptions that a config names ---------------------------------------------------------------------------------


def test_allowed_exceptions_are_reported(tmp_path):
    source = make()
    state = {**source.state_dict(), 'extra.a': torch.zeros(1), 'extra.b': torch.zeros(2)}
    for i in (0, 2):
        del state[f'layers.{i}.ffn.layers.1.bias']
    path = save(tmp_path / 'a.pth', state)
    vit = make()
    before = vit.layers[2].ffn.layers[1].bias.clone()
    report = load_backbone(vit, path, allow_missing=['layers.*.ffn.layers.1.bias'], allow_unexpected=['extra.*'])
    check_report(report, vit, path)
    assert report.missing == dict.fromkeys(
        ['layers.0.ffn.layers.1.bias', 'layers.2.ffn.layers.1.bias'], 'allow_missing'
    )
    assert report.dropped == {'extra.a': 'allow_unexpected', 'extra.b': 'allow_unexpected'}
    assert torch.equal(vit.layers[2].ffn.layers[1].bias, before)
    assert torch.equal(vit.layers[1].ffn.layers[1].bias, source.layers[1].ffn.layers[1].bias)


NAMES = ['ln1.weight', 'ln1.bias', 'layers.0.ln1.bias', 'layers.10.ln1.bias']


@given(st.sets(st.sampled_from(NAMES), min_size=1))
def test_a_name_allows_itself_and_nothing_else(names):
    assert choose(NAMES, sorted(names), 'allow_missing') == names
    assert choose(NAMES, ['*'], 'allow_missing') == set(NAMES)


@given(st.sets(st.sampled_from(NAMES)), st.sampled_from(['ln2.*', 'LN1.bias', 'ln1', 'n1.bias', 'layers.?.ln2.*']))
def test_a_pattern_without_a_match_is_an_error(names, pattern):
    with pytest.raises(ValueError, match=re.escape(f'allow_missing names {pattern!r}, but')):
        choose(names, [pattern], 'allow_missing')


# ---- short names ----------------------------------------------------------------------------------------------------

part = st.one_of(st.integers(0, 30).map(str), st.text('abz_', min_size=1, max_size=3), st.just('007'))
names = st.lists(st.lists(part, min_size=1, max_size=5).map('.'.join), unique=True, max_size=40)


def expand(text):
    match = re.search(r'\{([0-9,-]+)\}', text)
    if not match:
        return [text]
    found = []
    for span in match[1].split(','):
        first, _, last = span.partition('-')
        found += range(int(first), int(last or first) + 1)
    return [text[: match.start()] + str(number) + text[match.end() :] for number in found]


@given(names)
def test_collapsing_names_loses_nothing(names):
    short = collapse(names)
    expanded = [name for text in short for name in expand(text)]
    assert sorted(expanded) == sorted(names)
    assert len(short) <= len(names)


def test_collapsing_by_hand():
    layers = [f'layers.{i}.ffn.layers.{j}.bias' for i in (3, 1, 2, 7, 9, 10) for j in (0, 1)]
    assert collapse(['cls', *layers, 'layers.5.x', '4.weight']) == [
        'cls',
        'layers.{1-3,7,9-10}.ffn.layers.0.bias',
        'layers.{1-3,7,9-10}.ffn.layers.1.bias',
        'layers.5.x',
        '4.weight',
    ]


@given(names)
def test_suggested_patterns_allow_what_they_were_made_from(names):
    assert choose(names, generalise(names), 'allow_missing') == set(names)


# ---- the initializer ------------------------------------------------------------------------------------------------


def test_initializer_is_known_everywhere_and_logs_its_report(pretrained, capsys):
    assert WEIGHT_INITIALIZERS.get('StrictPretrained') is StrictPretrained
    assert WEIGHT_INITIALIZERS.get('randsac_mm.StrictPretrained') is StrictPretrained
    MMLogger.get_instance('initializer', log_level='INFO')
    vit = make(init_cfg=dict(type='StrictPretrained', checkpoint=str(pretrained[0])))
    vit.init_weights()
    assert 'RandSACViT from' in capsys.readouterr().out
    assert torch.equal(vit.state_dict()['ln1.bias'], pretrained[1]['backbone.ln1.bias'])


@pytest.mark.parametrize('kind', ['Pretrained', 'mmengine.Pretrained', PretrainedInit])
def test_pretrained_means_strict(tmp_path, pretrained, kind):
    good = dict(type=kind, checkpoint=str(pretrained[0]), map_location='cpu')
    vit = make(init_cfg=good)
    vit.init_weights()
    assert torch.equal(vit.state_dict()['ln1.bias'], pretrained[1]['backbone.ln1.bias'])
    wrong = make(arch=dict(ARCH, num_layers=5), init_cfg=good)
    with pytest.raises(ValueError, match='num_layers=5'):
        wrong.init_weights()


def test_what_loads_a_checkpoint_comes_last():
    drawn, loaded = dict(type='TruncNormal', layer='Linear'), dict(type='Pretrained', checkpoint='a.pth')
    assert [cfg['type'] for cfg in strict_init_cfg([loaded, drawn])] == ['TruncNormal', 'StrictPretrained']
    assert loaded['type'] == 'Pretrained', 'the config is not changed'
    assert strict_init_cfg(None) == []
    assert strict_init_cfg(drawn) == [drawn]


def test_list_of_initializers_does_not_draw_over_the_checkpoint(pretrained):
    init_cfg = [dict(type='Pretrained', checkpoint=str(pretrained[0])), dict(type='Constant', layer='Linear', val=3.0)]
    vit = make(init_cfg=init_cfg)
    vit.init_weights()
    name = 'layers.0.attn.qkv.weight'
    assert torch.equal(vit.state_dict()[name], pretrained[1][f'backbone.{name}'])


def test_other_libraries_own_vit_keeps_what_was_loaded(tmp_path):
    """mmpretrain's ViT draws its positions, and its children their weights, after init_cfg has been obeyed."""
    cfg = dict(type='VisionTransformer', arch=ARCH, img_size=SIZE, patch_size=PATCH)
    torch.manual_seed(1)
    source = MODELS.build(cfg)
    path = save(tmp_path / 'a.pth', prefixed('backbone.', source.state_dict()))
    vit = MODELS.build(dict(cfg, init_cfg=dict(type='StrictPretrained', checkpoint=str(path))))
    vit.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(vit.state_dict()[key], value), key


def test_backbone_that_is_no_vit_is_strict_as_well(tmp_path):
    class Net(BaseModule):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.stem = torch.nn.Linear(2, 3)
            self.body = torch.nn.ModuleList([torch.nn.Linear(3, 3) for _ in range(2)])

    source = Net()
    state = prefixed('model.backbone.', source.state_dict())
    path = save(tmp_path / 'a.pth', state)
    net = Net(init_cfg=dict(type='StrictPretrained', checkpoint=str(path)))
    net.init_weights()
    assert torch.equal(net.body[1].weight, source.body[1].weight)
    del state['model.backbone.body.1.bias']
    state['model.backbone.body.0.weight'] = torch.zeros(3, 2)
    with pytest.raises(
        ValueError, match=r"missing in the file: \['body.1.bias'\]\n.*\[\]\n  other shape: body.0.weight"
    ):
        load_backbone(Net(), save(tmp_path / 'b.pth', state))


def test_checkpoint_of_another_method_is_converted(tmp_path):
    """Through randsac_mm.transfer.peers, whose own tests say what becomes of each key."""
    deit = MODELS.build(dict(type='VisionTransformer', arch=ARCH, img_size=SIZE, patch_size=PATCH))
    path = save(tmp_path / 'a.pth', prefixed('backbone.', deit.state_dict()))
    vit = make(method='deit', img_size=48)
    report = load_backbone(vit, path)
    check_report(report, vit, path)
    assert 'resized 5 x 5 -> 6 x 6' in report.resized['pos_embed']
    assert report.dropped == {'backbone.cls_token': 'class token, dropped'}
    assert torch.equal(vit.layers[3].attn.qkv.weight, deit.layers[3].attn.qkv.weight)
    same = make(method='deit', img_size=SIZE)
    load_backbone(same, path)
    assert torch.equal(same.pos_embed, deit.pos_embed[:, 1:])


def test_number_of_heads_is_read_from_the_config_in_the_file(tmp_path):
    run = runner(pretrain_config(), tmp_path)
    model, checkpoint = run.model, dict(state_dict=run.model.state_dict())
    for arch, heads in ((f'dict({", ".join(f"{k}={v}" for k, v in ARCH.items())})', 4), ("'deit-tiny'", 3)):
        text = f"x = 1\nmodel = dict(\n    type='RandSAC',\n    backbone=dict(arch={arch}, type='RandSACViT'))\n"
        torch.save({**checkpoint, 'meta': dict(cfg=text)}, tmp_path / 'a.pth')
        for ours in (4, 8):
            vit = make(arch=dict(ARCH, num_heads=ours))
            if ours == heads:
                load_backbone(vit, tmp_path / 'a.pth')
            else:
                message = f'num_heads={heads} in the config that the file carries, {ours} in the backbone'
                with pytest.raises(ValueError, match=message):
                    load_backbone(vit, tmp_path / 'a.pth')
    for text in ('model = dict(', 'model = 3', 'raise SystemExit', "model = dict(backbone=dict(arch='gone'))", 5, None):
        torch.save({**checkpoint, 'meta': dict(cfg=text)}, tmp_path / 'a.pth')
        load_backbone(make(), tmp_path / 'a.pth')
    assert model.backbone.layers[0].attn.num_heads == 4


def test_config_of_a_real_run_tells_the_heads(tmp_path):
    run = runner(pretrain_config(), tmp_path, cfg=dict(model=pretrain_config()))
    run.train()
    with pytest.raises(ValueError, match='num_heads=4 in the config that the file carries, 2 in the backbone'):
        load_backbone(make(arch=dict(ARCH, num_heads=2)), tmp_path / 'iter_2.pth')


# ---- from the web ---------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An http server for the folder ``web``; torch's cache is elsewhere. Gives its address and what was asked for."""
    asked = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    (tmp_path / 'web').mkdir()
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setenv('no_proxy', '*')
    handler = functools.partial(Quiet, directory=str(tmp_path / 'web'))
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f'http://127.0.0.1:{httpd.server_port}', asked
        httpd.shutdown()
        thread.join()


def test_address_is_downloaded_once(tmp_path, server):
    address, asked = server
    source = make()
    save(tmp_path / 'web' / 'epoch_1.pth', source.state_dict())
    (tmp_path / 'web' / 'other').mkdir()
    another = make()
    save(tmp_path / 'web' / 'other' / 'epoch_1.pth', another.state_dict())
    model = build('mmseg', init_cfg=dict(type='Pretrained', checkpoint=f'{address}/epoch_1.pth'))
    model.init_weights()
    assert torch.equal(model.backbone.ln1.weight, source.ln1.weight)
    load_backbone(model.backbone, f'{address}/epoch_1.pth')
    assert len(asked) == 1
    load_backbone(model.backbone, f'{address}/other/epoch_1.pth')
    assert torch.equal(model.backbone.ln1.weight, another.ln1.weight), 'files of one name are told apart'


def test_address_that_does_not_exist(server):
    with pytest.raises(FileNotFoundError, match=r'no.pth cannot be downloaded \(.*404.*give the local path'):
        load_backbone(make(), f'{server[0]}/no.pth')
