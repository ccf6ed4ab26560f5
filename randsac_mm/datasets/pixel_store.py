"""A file of decoded images of different sizes, which all processes share.

A store is a folder: ``pixels.u8`` contains the images one after the other, ``index.npy`` an int64 row for each (offset,
height, width, channels, height and width of the original, CRC-32 of the pixels), ``info.json`` their number, bytes and
the CRC-32 of the index. It appears under its name only when it is complete. A file ``damaged`` in it has it made anew.
"""

import errno
import fcntl  # on Linux and macOS only, as are the launchers
import json
import logging
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

VERSION = 2
PIXELS, INDEX, INFO, DAMAGED = 'pixels.u8', 'index.npy', 'info.json', 'damaged'
_TEMPORARY = '.building'  # ending of a folder that is being written, or was when its process ended

Images = Iterable[tuple[np.ndarray, tuple[int, int]]]  # uint8, (H, W) or (H, W, C); height and width of the original


class DamagedError(ValueError):
    """A store, or an image in it, is not what was written."""


class PixelStore:
    """Images in a memory-mapped file of ``folder``; DamagedError if it is damaged, or marked so unless ``marked``."""

    def __init__(self, folder: str | os.PathLike, marked: bool = False) -> None:
        self.folder = Path(folder)
        try:
            if not marked and (self.folder / DAMAGED).exists():
                raise ValueError('an image in it was found damaged')
            info = json.loads((self.folder / INFO).read_bytes())
            self._index = np.load(self.folder / INDEX, mmap_mode='r', allow_pickle=False)
            found = _describe(self._index, os.path.getsize(self.folder / PIXELS))
            if found != info:
                raise ValueError(f'{found} instead of {info}')
            self._pixels = np.memmap(self.folder / PIXELS, np.uint8, mode='r') if info['bytes'] else np.empty(0, 'u1')
        except Exception as error:  # json and numpy raise anything, from RecursionError to SyntaxError
            raise DamagedError(f'{self.folder} is damaged or outdated ({error})') from error
        self._verified = np.zeros(len(self._index), bool)  # by this process

    # A spawned worker opens the files itself; the pixels are not sent to it.
    def __reduce__(self) -> tuple:
        return PixelStore, (self.folder, True)

    def __len__(self) -> int:
        return len(self._index)

    def image(self, number: int) -> np.ndarray:
        """Return a copy of an image (H, W) or (H, W, C), uint8; raise DamagedError if it is not what was written."""
        begin, height, width, channels, _, _, checksum = self._index[number].tolist()
        flat = np.array(self._pixels[begin : begin + height * width * max(1, channels)])
        if not self._verified[number]:
            if zlib.crc32(flat) != checksum:
                raise DamagedError(f'{self.folder}: image {number} is damaged')
            self._verified[number] = True
        return flat.reshape((height, width, channels) if channels else (height, width))

    def original_shape(self, number: int) -> tuple[int, int]:
        """Return height and width of the file that an image was made from."""
        return tuple(self._index[number, 4:6].tolist())

    def mark_damaged(self) -> None:
        """Have the store made anew by the next that opens it, where the disk can be written."""
        with suppress(OSError):
            (self.folder / DAMAGED).touch()


def open_or_build(
    folder: str | os.PathLike, build: Callable[[], Images], check: Callable[[PixelStore], None] = lambda store: None
) -> PixelStore:
    """Open a store; write it first, from the images that ``build`` returns, if there is none, or a damaged one.

    Of several processes that need it at once, on one machine or on several with a shared file system, one writes and
    the others wait. Where a file system has no locks, each writes its own and the first to finish counts. What replaces
    a store disturbs no process that reads the old one.

    Args:
        folder: The store.
        build: Function that returns the images.
        check: Function that raises DamagedError if an opened store is not to be used.

    Raises:
        OSError: If it cannot be written.
    """
    folder = Path(folder)

    def find() -> PixelStore | None:
        if os.path.lexists(folder):
            check(store := PixelStore(folder))
            return store
        return None

    with suppress(DamagedError):
        if store := find():
            return store
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            try:
                if store := find():  # made by another process
                    return store
            except DamagedError as error:
                print_log(f'{error}: it is made anew', 'current', logging.WARNING)
                old = folder.with_name(f'{folder.name}.{os.uname().nodename}-{os.getpid()}{_TEMPORARY}')
                folder.rename(old)
            for old in folder.parent.glob(f'{folder.name}.*{_TEMPORARY}'):  # perhaps of a process that was killed
                shutil.rmtree(old, ignore_errors=True)  # and lost the lock
                with suppress(OSError):
                    old.unlink()
            _write(folder, build)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f'{folder} cannot be made ({error}): set another cache_dir, or remove what is in the way'
        raise OSError(error.errno, text) from error
    return PixelStore(folder)


def _describe(index: np.ndarray, size: int) -> dict[str, int]:
    """Return what ``info.json`` contains; ValueError if the index is none."""
    if index.ndim != 2 or index.shape[1] != 7 or index.dtype != np.int64:
        raise ValueError(f'an index of shape {index.shape} and type {index.dtype}')
    return {'version': VERSION, 'images': len(index), 'bytes': size, 'index': zlib.crc32(np.ascontiguousarray(index))}


def _write(folder: Path, build: Callable[[], Images]) -> None:
    temporary = folder.with_name(f'{folder.name}.{os.uname().nodename}-{os.getpid()}{_TEMPORARY}')
    temporary.mkdir()
    rows, size = [], 0
    try:
        with open(temporary / PIXELS, 'wb') as file:
            for image, original in build():
                pixels = np.ascontiguousarray(image, dtype=np.uint8)
                shape = *image.shape[:2], image.shape[2] if image.ndim == 3 else 0
                rows.append((size, *shape, *original, zlib.crc32(pixels)))
                size += file.write(pixels.data.cast('B'))
        index = np.array(rows, dtype=np.int64).reshape(-1, 7)
        np.save(temporary / INDEX, index, allow_pickle=False)
        (temporary / INFO).write_text(json.dumps(_describe(index, size)))
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
