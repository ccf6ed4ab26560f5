"""Contract: a file is read without running code of it, or refused with its name, the fault and what to do."""

import argparse
import functools
import os
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from safetensors.torch import save_file
from transfer.three_models import build, make

from randsac_mm.engine.plain import from_plain
from randsac_mm.transfer import load_backbone
from randsac_mm.transfer.reading import find_state, read_checkpoint


def save(path, content):
    torch.save(content, path)
    return path


def test_missing_file_folder_and_address_of_another_kind(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r'no\.pth'):
        read_checkpoint('no.pth')
    save(tmp_path / 'epoch_2.pth', make().state_dict())
    save(tmp_path / 'epoch_1.pth', {})
    with pytest.raises(ValueError, match=r'epoch_1\.pth, epoch_2\.pth'):
        read_checkpoint(tmp_path)
    with pytest.raises(ValueError, match='s3://bucket'):
        read_checkpoint('s3://bucket/a.pth')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert read_checkpoint('~/epoch_2.pth')


@pytest.mark.parametrize('content', [{}, dict(meta=dict(epoch=3)), dict(state_dict={'a': 1})], ids=str)
def test_file_without_tensors(tmp_path, content):
    with pytest.raises(ValueError, match=r'a\.pth'):
        find_state(read_checkpoint(save(tmp_path / 'a.pth', content)), 'a.pth')


def test_file_of_a_list(tmp_path):
    with pytest.raises(ValueError, match=r'a\.pth is a list'):
        read_checkpoint(save(tmp_path / 'a.pth', [torch.zeros(1)]))


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
    # The old format may end within a name, which is then unknown.
    message = f'{path.stat().st_size:,} bytes' if zipped or where > 0.5 else ''
    with pytest.raises(ValueError, match=f'cut.pth .*{message}'):
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
        assert 'damaged.pth' in str(error)  # noqa: PT017
    else:  # bytes between the zip's entries are not read
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


def test_truncated_safetensors(tmp_path):
    path = tmp_path / 'a.safetensors'
    save_file(make().state_dict(), path)
    assert load_backbone(make(), path).loaded
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r'a\.safetensors .*truncated'):
        read_checkpoint(path)


class Harmful:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('zipped', [True, False])
def test_objects_of_mmengine_beside_the_weights_become_plain(tmp_path, zipped):
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
    assert read['args'] == {'lr': 0.1, 'path': 'x'}
    assert read['meta']['cfg'] == {'a': 1, 'b': {'c': [2]}}
    assert (read['meta']['palette'].tolist(), read['meta']['names'].tolist()) == ([[1, 2, 3]], ['x'])
    assert read['message_hub']['runtime_info'] == {3: 0.5}
    assert from_plain(read['message_hub']['log_scalars']['loss']).mean() == 0.5


def test_code_in_a_file_is_not_run(tmp_path):
    touched = tmp_path / 'touched'
    state = make().state_dict()
    for name, thing in (
        ('posix.system', Harmful(os.system, f'touch {touched}')),
        ('exec', Harmful(exec, f'open({str(touched)!r}, "w")')),
        ('torch.nn.modules.linear.Linear', torch.nn.Linear(1, 1)),
    ):
        with pytest.raises(ValueError, match=name):
            read_checkpoint(save(tmp_path / 'a.pth', dict(state_dict=state, extra=thing)))
    assert not touched.exists()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """An http server for the folder ``web``; torch's cache is elsewhere. Yields its address and the requests."""
    asked = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    (tmp_path / 'web' / 'other').mkdir(parents=True)
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
    one, another = make(), make()
    save(tmp_path / 'web' / 'epoch_1.pth', one.state_dict())
    save(tmp_path / 'web' / 'other' / 'epoch_1.pth', another.state_dict())
    model = build('mmseg', init_cfg=dict(type='Pretrained', checkpoint=f'{address}/epoch_1.pth'))
    model.init_weights()
    load_backbone(model.backbone, f'{address}/epoch_1.pth')
    assert torch.equal(model.backbone.ln1.weight, one.ln1.weight)
    assert len(asked) == 1
    load_backbone(model.backbone, f'{address}/other/epoch_1.pth')
    assert torch.equal(model.backbone.ln1.weight, another.ln1.weight), 'another file of this name'


def test_address_that_does_not_exist(server):
    with pytest.raises(FileNotFoundError, match=r'no\.pth .*404'):
        load_backbone(make(), f'{server[0]}/no.pth')
