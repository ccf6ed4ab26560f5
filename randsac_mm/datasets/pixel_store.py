"""A file of decoded images of different sizes, which all processes share.

A store is a folder: ``pixels.u8`` contains the images one after the other, ``index.npy`` an int64 row for each (offset,
height, width, channels, height and width of the original, CRC-32 of the pixels), ``info.json`` the bytes of pixels and
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
            expected, found = json.loads((self.folder / INFO).read_bytes()), _describe(self.folder)
            if found != expected:
                raise ValueError(f'{found} instead of {expected}')
            self._index = np.load(self.folder / INDEX, mmap_mode='r')
            self._pixels = np.memmap(self.folder / PIXELS, np.uint8, mode='r') if found['bytes'] else np.empty(0, 'u1')
        except Exception as error:  # json raises RecursionError as well
            raise DamagedError(f'{self.folder} is damaged or outdated ({error})') from error
        self._verified, self._marked = np.zeros(len(self._index), bool), marked

    # A spawned worker opens the files itself; the pixels are not sent to it.
    def __reduce__(self) -> tuple:
        return PixelStore, (self.folder, True)

    def __len__(self) -> int:
        return len(self._index)

    def image(self, number: int) -> np.ndarray:
        """Return a copy of an image (H, W) or (H, W, C), uint8; see :meth:`verify` first."""
        begin, height, width, channels = self._index[number, :4].tolist()
        flat = self._pixels[begin : begin + height * width * max(1, channels)]
        return np.array(flat).reshape((height, width, channels) if channels else (height, width))

    def verify(self, number: int) -> bool:
        """Return whether an image is what was written; compute its checksum once a process.

        If not, the store is marked, if the disk can be written, so that the next that opens it makes it anew.
        """
        if not self._verified[number]:
            self._verified[number] = zlib.crc32(self.image(number)) == self._index[number, 6]
            if not self._verified[number] and not self._marked:
                self._marked = True
                with suppress(OSError):
                    (self.folder / DAMAGED).touch()
                text = f'{self.folder}: image {number}, and perhaps others, is damaged: its file is read instead, and '
                print_log(f'{text}the next start makes the cache anew', 'current', logging.WARNING)
        return bool(self._verified[number])

    def original_shape(self, number: int) -> tuple[int, int]:
        """Return height and width of the file that an image was made from."""
        return tuple(self._index[number, 4:6].tolist())


def open_or_build(
    folder: str | os.PathLike,
    build: Callable[[], Images],
    check: Callable[[PixelStore], PixelStore] = lambda store: store,
) -> PixelStore:
    """Open a store; write it first, from the images that ``build`` returns, if there is none or ``check`` refuses it.

    Of several processes that need it at once, on one machine or on several with a shared file system, one writes and
    the others wait. Where a file system has no locks, each writes its own and the first to finish counts. Who reads a
    damaged store while it is replaced goes on with the old one.

    Raises:
        OSError: If it cannot be written.
    """
    folder = Path(folder)
    with suppress(DamagedError):
        return check(PixelStore(folder))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder):
            try:
                return check(PixelStore(folder))  # made by another process
            except DamagedError as error:
                if os.path.lexists(folder):
                    print_log(f'{error}: it is made anew', 'current', logging.WARNING)
                    folder.rename(folder.with_name(f'{folder.name}.{os.getpid()}-old{_TEMPORARY}'))
            for old in folder.parent.glob(f'{folder.name}.*{_TEMPORARY}'):  # or of a process that was killed
                shutil.rmtree(old, ignore_errors=True) if old.is_dir() and not old.is_symlink() else old.unlink()
            _write(folder, build)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        text = f'{folder} cannot be made ({error}): set another cache_dir, or remove what is in the way'
        raise OSError(error.errno, text) from error
    return PixelStore(folder)


def _describe(folder: Path) -> dict[str, int]:
    """Return what ``info.json`` contains."""
    checksum = zlib.crc32((folder / INDEX).read_bytes())
    return {'version': VERSION, 'bytes': os.path.getsize(folder / PIXELS), 'index': checksum}


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
        np.save(temporary / INDEX, np.array(rows, dtype=np.int64).reshape(-1, 7), allow_pickle=False)
        (temporary / INFO).write_text(json.dumps(_describe(temporary)))
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
