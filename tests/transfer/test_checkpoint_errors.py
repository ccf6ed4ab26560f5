"""Contract: each mistake has its own message with the fix, and leaves the backbone as it was."""

import argparse
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from transfer.three_models import ARCH, DIMS, make

from randsac_mm.transfer import load_backbone
from randsac_mm.transfer.reading import find_state, read_checkpoint


def refused(path, message, error=ValueError, vit=None, **options):
    """Assert that loading fails with this message and changes nothing."""
    vit = vit or make()
    before = {key: value.clone() for key, value in vit.state_dict().items()}
    with pytest.raises(error, match=message):
        load_backbone(vit, path, **options)
    for key, value in vit.state_dict().items():
        assert torch.equal(value, before[key]), key


def save(path, content):
    torch.save(content, path)
    return path


# ---- the wrong file -------------------------------------------------------------------------------------------------


def test_file_of_another_network(tmp_path):
    state = {'backbone.conv1.weight': torch.zeros(2), 'backbone.layer1.0.conv1.weight': torch.zeros(2)}
    state.update({f'head.fc.{i}.weight': torch.zeros(1) for i in range(12)})
    refused(
        save(tmp_path / 'resnet.pth', dict(state_dict=state)),
        r'is the wrong file: it has no tensor patch_embed.projection.weight .* It holds backbone.conv1.weight, '
        r'backbone.layer1.0.conv1.weight, head.fc.\{0-11\}.weight. Give the checkpoint of a pre-training',
    )


def test_file_with_names_of_another_code_base(tmp_path):
    state = {'patch_embed.proj.weight': torch.zeros(2), 'blocks.0.attn.qkv.weight': torch.zeros(2)}
    refused(save(tmp_path / 'timm.pth', state), "names are those of timm and of authors' own code; convert them")


@pytest.mark.parametrize(
    'content', [{}, dict(meta=dict(epoch=3)), dict(state_dict={}), dict(state_dict={'a': 1})], ids=str
)
def test_file_without_tensors(tmp_path, content):
    refused(save(tmp_path / 'a.pth', content), r'holds no tensors: its entries are \[.*should be under one of \(')


def test_file_that_holds_no_dict(tmp_path):
    refused(save(tmp_path / 'a.pth', [torch.zeros(1)]), r'holds a list, no state dict. Save torch.save')


def test_checkpoint_of_another_method(tmp_path):
    state = make().state_dict() | {'cls_token': torch.zeros(1, 1, DIMS)}
    refused(
        save(tmp_path / 'a.pth', state),
        r"missing in the file: \[\]\n  left over in the file: \['cls_token'\]\nThe file has a class token: set "
        "method='mae', or whose it is",
    )


def test_learned_positions_are_refused_before_anything_is_copied(tmp_path):
    state = make().state_dict()
    state['pos_embed'] = torch.randn_like(state['pos_embed'])
    refused(save(tmp_path / 'a.pth', state), 'holds no fixed sine-cosine positions')


# ---- the wrong backbone ---------------------------------------------------------------------------------------------

SIZES = {
    'width': (dict(arch=dict(ARCH, embed_dims=20)), 'embed_dims=16, .* the backbone has embed_dims=20'),
    'depth': (dict(arch=dict(ARCH, num_layers=6)), 'num_layers=4, .* the backbone has embed_dims=16, num_layers=6'),
    'feed-forward': (
        dict(arch=dict(ARCH, feedforward_channels=29)),
        r'feedforward_channels=23, .* feedforward_channels=29. Set arch=dict\(embed_dims=16, num_layers=4, '
        r'feedforward_channels=23, num_heads=...\)',
    ),
    'patch size': (
        dict(patch_size=10),
        'another patch size: 8 x 8 pixels in the file, 10 x 10 in the backbone. Set patch_size=8 in the backbone',
    ),
    'channels': (
        dict(in_channels=1),
        'another number of image channels: 3 in the file, 1 in the backbone. Set in_channels=3',
    ),
}


@pytest.mark.parametrize('kind', SIZES)
def test_sizes_that_differ(tmp_path, kind):
    options, message = SIZES[kind]
    path = save(tmp_path / 'a.pth', {f'backbone.{key}': value for key, value in make().state_dict().items()})
    refused(
        path,
        f'does not fit the backbone, nothing was loaded:\n  another .*{message.removeprefix("another ")}',
        vit=make(**options),
    )
    # Naming what is missing does not help: it is still another architecture.
    refused(path, 'another ', vit=make(**options), allow_missing='*', allow_unexpected='*')


def test_all_sizes_that_differ_are_named_at_once(tmp_path):
    path = save(tmp_path / 'a.pth', make().state_dict())
    vit = make(arch=dict(ARCH, num_layers=5), patch_size=10, in_channels=2)
    refused(path, r'another architecture(.|\n)*another patch size(.|\n)*another number of image channels', vit=vit)


def test_missing_and_left_over_are_both_listed(tmp_path):
    state = make().state_dict()
    for i in range(4):
        state[f'layers.{i}.ffn.extra.weight'] = state.pop(f'layers.{i}.ffn.layers.1.weight')
    del state['ln1.bias']
    refused(
        save(tmp_path / 'a.pth', state),
        r"missing in the file: \['layers.\{0-3\}.ffn.layers.1.weight', 'ln1.bias'\]\n"
        r"  left over in the file: \['layers.\{0-3\}.ffn.extra.weight'\]\n"
        r"If this is meant to be so: init_cfg=dict\(type='StrictPretrained', allow_missing=\["
        r"'layers.\*.ffn.layers.1.weight', 'ln1.bias'\], allow_unexpected=\['layers.\*.ffn.extra.weight'\], ...\)",
    )


def test_shapes_that_differ_otherwise(tmp_path):
    state = make().state_dict()
    state['layers.2.attn.proj.bias'] = torch.zeros(3)
    refused(
        save(tmp_path / 'a.pth', state),
        r'other shape: layers.2.attn.proj.bias: \(3,\) in the file, \(16,\) in the backbone',
        allow_missing=(),
    )


def test_patterns_that_match_nothing(tmp_path):
    path = save(tmp_path / 'a.pth', make().state_dict())
    refused(path, r"allow_missing names 'ln3.*', but there is nothing to allow", allow_missing=['ln3.*'])
    state = make().state_dict() | {'a.weight': torch.zeros(1)}
    path = save(tmp_path / 'b.pth', state)
    refused(path, r"allow_unexpected names 'b.\*', but matches none of \['a.weight'\]", allow_unexpected=['a.*', 'b.*'])


def test_prefixes_that_match_nothing(tmp_path):
    state = {f'model.backbone.{key}': value for key, value in make().state_dict().items()}
    path = save(tmp_path / 'a.pth', state | {'model.head.weight': torch.zeros(1)})
    for prefix in ('backbone.', 'model.', '', 'model.head'):
        refused(path, r"has no backbone under it, but under \['model.backbone.'\]; it holds model.*", prefix=prefix)


# ---- files that cannot be read --------------------------------------------------------------------------------------


def test_missing_file_and_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused('no.pth', f'there is no checkpoint no.pth; paths are relative to {tmp_path}', error=FileNotFoundError)
    refused(tmp_path, 'is a folder. Name a file in it, of which none is a checkpoint')
    save(tmp_path / 'epoch_2.pth', {})
    save(tmp_path / 'epoch_1.pth', {})
    refused(tmp_path, 'is a folder. Name a file in it: epoch_1.pth, epoch_2.pth')


@pytest.mark.parametrize('path', ['s3://bucket/a.pth', 'torchvision://resnet50', 'ftp://here/a.pth'])
def test_addresses_of_other_kinds(path):
    refused(path, f'{path}: only files and http\\(s\\) addresses can be read. Download it and give the local path')


def test_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    save(tmp_path / 'a.pth', make().state_dict())
    assert load_backbone(make(), '~/a.pth').loaded


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The files of a checkpoint, in the format before zip files and in zip format."""
    folder = tmp_path_factory.mktemp('whole')
    for zipped in (False, True):
        torch.save(make().state_dict(), folder / f'{zipped}.pth', _use_new_zipfile_serialization=zipped)
    return [folder / 'False.pth', folder / 'True.pth']


several = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


@several
@given(st.floats(0, 1, exclude_max=True), st.booleans())
@example(0.0, True)
@example(0.5, True)
@example(0.5, False)
@example(0.9999999, True)
@example(0.9999999, False)
def test_truncated_file(tmp_path, whole, where, zipped):
    content = whole[zipped].read_bytes()
    path = tmp_path / 'cut.pth'
    path.write_bytes(content[: int(where * len(content))])
    if zipped or where > 0.5:  # otherwise the old format may end within a name, and tells of another one
        again = f'it has {path.stat().st_size:,} bytes. Copy or download it again'
        message = f'the file is truncated.*; {again}' if where > 0.01 else again
    else:
        message = ''
    with pytest.raises(ValueError, match=f'cut.pth is no checkpoint that can be read safely: .*{message}'):
        read_checkpoint(path)


@several
@given(st.floats(0.2, 0.8), st.integers(1, 255))
def test_damaged_file(tmp_path, whole, where, change):
    """torch.load does not compare checksums; a flipped bit would be a wrong weight."""
    content = bytearray(whole[True].read_bytes())
    content[int(where * len(content))] ^= change
    path = tmp_path / 'damaged.pth'
    path.write_bytes(content)
    try:
        found = read_checkpoint(path)
    except ValueError as error:
        assert 'Copy or download it again' in str(error)  # noqa: PT017
    else:  # between the zip's entries are bytes of no meaning
        expected = torch.load(whole[True], weights_only=True)
        assert all(torch.equal(found[key], expected[key]) for key in expected)


@several
@given(st.binary(max_size=200))
@example(b'PK\x03\x04')
@example(b'\x80\x02}q\x00.')
@example(b'<!DOCTYPE html><html>404 not found</html>')
def test_any_other_bytes(tmp_path, content):
    path = tmp_path / 'page.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'page\.pth '):
        find_state(read_checkpoint(path), path)


def test_page_of_a_website(tmp_path):
    path = tmp_path / 'a.pth'
    path.write_bytes(b'<!DOCTYPE html><html>404 not found</html>')
    refused(path, r"it starts with b'<!DOCTYPE html><html>.*'; it has 41 bytes. Copy or download it again")


def test_truncated_safetensors(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / 'a.safetensors'
    save_file(make().state_dict(), path)
    assert load_backbone(make(), path).loaded
    path.write_bytes(path.read_bytes()[:-5])
    refused(path, r'truncated or no safetensors file \(.*\); it has [0-9,]+ bytes. Copy or download it again')


def test_safetensors_that_is_not_installed(tmp_path, monkeypatch):
    (tmp_path / 'a.safetensors').write_bytes(b'')
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    refused(tmp_path / 'a.safetensors', 'needs the package safetensors: pip install safetensors', error=ImportError)


# ---- nothing of a file is executed ----------------------------------------------------------------------------------


class Harmful:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('zipped', [True, False])
def test_what_mmengine_stores_beside_the_weights_is_skipped(tmp_path, zipped):
    vit = make()
    content = dict(
        state_dict=vit.state_dict(),
        meta=dict(palette=np.array([[1, 2, 3]]), names=np.array(['x']), cfg=ConfigDict(a=1, b=dict(c=[2]))),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([0.5], [1])), runtime_info={np.int64(3): np.float64(0.5)}),
        args=argparse.Namespace(lr=0.1, path=Path('x')),
    )
    torch.save(content, tmp_path / 'a.pth', _use_new_zipfile_serialization=zipped)
    other = make()
    load_backbone(other, tmp_path / 'a.pth')
    assert torch.equal(other.ln1.weight, vit.ln1.weight)
    read = read_checkpoint(tmp_path / 'a.pth')
    assert read['message_hub']['log_scalars']['loss'] == {}, 'a placeholder, no HistoryBuffer'
    assert not isinstance(read['args'], argparse.Namespace)


def test_code_in_a_file_is_not_run(tmp_path):
    touched = tmp_path / 'touched'
    state = make().state_dict()
    harmful = {
        'posix.system': Harmful(os.system, f'touch {touched}'),
        'exec': Harmful(exec, f'open({str(touched)!r}, "w")'),
        'torch.nn.modules.linear.Linear': torch.nn.Linear(1, 1),
    }
    for name, thing in harmful.items():
        path = save(tmp_path / 'a.pth', dict(state_dict=state, extra=thing))
        refused(path, f'beside tensors and plain values it holds {name}. Where it was written, save torch.save')
    # A placeholder stands for getattr: what it is called with is not looked at.
    path = save(tmp_path / 'b.pth', dict(state_dict=state, extra=Harmful(getattr, argparse.Namespace(), 'gone')))
    assert load_backbone(make(), path).loaded
    assert not touched.exists()
