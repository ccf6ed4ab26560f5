"""A file of decoded images of different sizes, which all processes share.

A store is a folder: ``pixels.u8`` contains the images one after the other, ``index.npy`` an int64 row for each (offset,
height, width, channels, height and width of the original), ``info.json`` their number and bytes. It appears under its
name only when it is complete.
"""

import errno
import fcntl  # on Linux and macOS only, as are the launchers
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

VERSION = 1
PIXELS, INDEX, INFO = 'pixels.u8', 'index.npy', 'info.json'
_TEMPORARY = '.building'  # ending of a folder that is being written, or was when its process ended

Images = Iterable[tuple[np.ndarray, tuple[int, int]]]  # uint8, (H, W) or (H, W, C); height and width of the original


class PixelStore:
    """Images in a memory-mapped file of ``folder``; ValueError if it is damaged."""

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        try:
            info = json.loads((self.folder / INFO).read_text())
            self._index = np.load(self.folder / INDEX, mmap_mode='r', allow_pickle=False)
            expected = info['images'], info['bytes']
            found = len(self._index), os.path.getsize(self.folder / PIXELS)
            if found != expected:
                raise ValueError(f'(images, bytes) are {found} instead of {expected}')
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f'{self.folder} is damaged ({error}): remove it to build it anew') from error
        self._pixels = np.memmap(self.folder / PIXELS, np.uint8, mode='r')

    # A spawned worker opens the files itself; the pixels are not sent to it.
    def __reduce__(self) -> tuple:
        return PixelStore, (self.folder,)

    def __len__(self) -> int:
        return len(self._index)

    def image(self, number: int) -> np.ndarray:
        """Return a copy of an image (H, W) or (H, W, C), uint8."""
        begin, height, width, channels = self._index[number, :4].tolist()
        flat = self._pixels[begin : begin + height * width * max(1, channels)]
        return np.array(flat).reshape((height, width, channels) if channels else (height, width))

    def original_shape(self, number: int) -> tuple[int, int]:
        """Return height and width of the file that an image was made from."""
        return tuple(self._index[number, 4:].tolist())


def open_or_build(folder: str | os.PathLike, build: Callable[[], Images]) -> PixelStore:
    """Open a store; write it first, from the images that ``build`` returns, if there is none.

    Of several processes that need it at once, on one machine or on several with a shared file system, one writes and
    the others wait. Where a file system has no locks, each writes its own and the first to finish counts.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the store is damaged.
    """
    folder = Path(folder)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            if not folder.exists():
                for old in folder.parent.glob(f'{folder.name}.*{_TEMPORARY}'):
                    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed: it lost the lock
                _write(folder, build)
    return PixelStore(folder)


def _write(folder: Path, build: Callable[[], Images]) -> None:
    temporary = folder.with_name(f'{folder.name}.{os.uname().nodename}-{os.getpid()}{_TEMPORARY}')
    temporary.mkdir()
    rows, size = [], 0
    try:
        with open(temporary / PIXELS, 'wb') as file:
            for image, original in build():
                rows.append((size, *image.shape[:2], image.shape[2] if image.ndim == 3 else 0, *original))
                size += file.write(np.ascontiguousarray(image, dtype=np.uint8).data.cast('B'))
        np.save(temporary / INDEX, np.array(rows, dtype=np.int64).reshape(-1, 6), allow_pickle=False)
        (temporary / INFO).write_text(json.dumps({'version': VERSION, 'images': len(rows), 'bytes': size}))
        for name in (PIXELS, INDEX, INFO):
            with open(temporary / name, 'rb+') as file:
                os.fsync(file.fileno())  # the contents reach the disk before the name does
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / INFO).exists():  # else another process was faster, and its store counts
                raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = (
                f'{folder}: the disk is full after {size / 1e9:.1f} GB: set another cache_dir or a smaller short_side'
            )
            raise OSError(error.errno, text) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Take the lock of a store; it ends with the process, however that ends."""
    with open(folder.with_name(f'{folder.name}.lock'), 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_log(f'{folder}: another process is making this cache, waiting for it', 'current')
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield  # closing the file releases the lock
