"""A file of decoded images of different sizes that all processes share.

A store is a folder: ``pixels.u8`` holds the images one after the other, ``index.npy`` an int64 row for each (where it
begins, height, width, channels, height and width of the original), ``info.json`` what it is. It appears under its name
only when it is complete.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

VERSION = 1
PIXELS, INDEX, INFO = 'pixels.u8', 'index.npy', 'info.json'
_TEMPORARY = '.building'  # ending of a folder that is being written, or was when its process ended


class PixelStore:
    """Read images from a store, which all processes share: the system keeps one copy of the file in its memory.

    Args:
        folder: The store.

    Raises:
        ValueError: If the store is damaged or was written by another version.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._index, self._pixels = self._open()

    def __len__(self) -> int:
        return len(self._index)

    def image(self, number: int) -> np.ndarray:
        """Copy an image (H, W) or (H, W, C), uint8, out of the store."""
        begin, height, width, channels = self._index[number, :4].tolist()
        flat = self._pixels[begin : begin + height * width * max(1, channels)]
        return np.array(flat).reshape((height, width, channels) if channels else (height, width))

    def original_shape(self, number: int) -> tuple[int, int]:
        """Give height and width of the file that an image was made from."""
        return tuple(self._index[number, 4:].tolist())

    def _open(self) -> tuple[np.ndarray, np.ndarray]:
        try:
            info = json.loads((self.folder / INFO).read_text())
            index = np.load(self.folder / INDEX, mmap_mode='r', allow_pickle=False)
            found = (info['version'], len(index), os.path.getsize(self.folder / PIXELS))
        except (OSError, ValueError, KeyError) as error:
            raise ValueError(f'{self.folder} is no complete store of images: remove it to build it anew') from error
        if found != (VERSION, info['images'], info['bytes']):
            raise ValueError(
                f'{self.folder} should have version {VERSION}, {info["images"]} images and {info["bytes"]} bytes, but '
                f'has {found}: remove it to build it anew'
            )
        return index, np.memmap(self.folder / PIXELS, np.uint8, mode='r')

    # A worker that is spawned opens the files itself; the pixels are not sent to it.
    def __getstate__(self) -> dict:
        return {'folder': self.folder}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state['folder'])


def open_or_build(
    folder: str | os.PathLike,
    build: Callable[[], Iterable[tuple[np.ndarray, tuple[int, int]]]],
    info: dict[str, Any],
    waiting: Callable[[], None] = lambda: None,
) -> PixelStore:
    """Open a store; write it first if there is none.

    Of several processes that need it at once, on one machine or on several with a shared file system, one writes and
    the others wait. Where a file system has no locks, each writes its own and the first to finish counts.

    Args:
        folder: The store.
        build: Gives the images, uint8, each with height and width of its original. Called only if there is no store.
        info: What else to write into ``info.json``.
        waiting: Called if another process is writing.

    Returns:
        The store.

    Raises:
        OSError: If it cannot be written; with a clear message if the disk is full.
        ValueError: If the store is damaged.
    """
    folder = Path(folder)
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(f'{folder.name}.lock'), waiting):
            if not folder.exists():
                for old in folder.parent.glob(f'{folder.name}.*{_TEMPORARY}'):
                    shutil.rmtree(old, ignore_errors=True)  # of a process that was killed: nobody else holds the lock
                _write(folder, build, info)
    return PixelStore(folder)


def _write(folder: Path, build: Callable[[], Iterable], info: dict[str, Any]) -> None:
    temporary = folder.with_name(f'{folder.name}.{os.uname().nodename}-{os.getpid()}{_TEMPORARY}')
    temporary.mkdir()
    try:
        rows, begin = [], 0
        with open(temporary / PIXELS, 'wb') as file:
            for image, original in build():
                if image.dtype != np.uint8:
                    raise ValueError(f'images must be uint8 to be stored, not {image.dtype}')
                rows.append((begin, *image.shape[:2], image.shape[2] if image.ndim == 3 else 0, *original))
                begin += file.write(np.ascontiguousarray(image).data.cast('B'))
            _to_disk(file)
        with open(temporary / INDEX, 'wb') as file:
            np.save(file, np.array(rows, dtype=np.int64).reshape(-1, 6), allow_pickle=False)
            _to_disk(file)
        with open(temporary / INFO, 'w') as file:
            json.dump({'version': VERSION, 'images': len(rows), 'bytes': begin, **info}, file, indent=2)
            _to_disk(file)
        _publish(temporary, folder)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f'{folder}: the disk is full after {begin / 1e9:.1f} GB: free some space or choose another cache_dir'
            raise OSError(error.errno, text) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _publish(temporary: Path, folder: Path) -> None:
    """Give a complete store its name, in one step; if another process was faster, its store is as good."""
    try:
        temporary.rename(folder)
    except OSError:
        if not (folder / INFO).exists():
            raise


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


@contextmanager
def _lock(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that ends with the process, however that ends."""
    import fcntl  # on Linux and macOS only, as are the launchers

    with open(path, 'w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)
