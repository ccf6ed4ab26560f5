"""Facts about files, read in parallel and remembered until a file changes."""

import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.logging import print_log
from PIL import Image

from randsac_mm.files import atomic_write

from .image_limits import open_image
from .images import find_fault, log_progress

_THREADS = 8  # more than cores, for network file systems
_FEW = 1000  # files that threads read
_VERSION = 3  # of what is remembered: to be raised when a reader changes its mind
_ORIENTATION = 0x0112  # the EXIF tag


class ImageFacts(NamedTuple):
    """What the header of an image file says.

    Attributes:
        fault: Why the file is not readable, or None.
        mode: Pillow's name of its kind of pixels, such as ``'RGB'``, ``'P'`` or ``'I;16'``.
        height: Height in pixels, as stored, before it is turned upright.
        width: Width in pixels, as stored.
        orientation: EXIF orientation, 1 (upright) to 8; 5 and more swap height and width.
    """

    fault: str | None
    mode: str = ''
    height: int = 0
    width: int = 0
    orientation: int = 1

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width of the image as it is read."""
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)


def scan_images(paths: Sequence[str], decode: bool = False) -> list[ImageFacts]:
    """Return the facts of image files, see :func:`~randsac_mm.datasets.images.find_fault` for ``decode``."""
    found = scan_files(f'images-{"pixels" if decode else "headers"}', paths, partial(_read_header, decode=decode))
    return [ImageFacts(*entry) for entry in found]


def scan_files(kind: str, paths: Sequence[str], read: Callable[[str], Sequence]) -> list[Sequence]:
    """Return what ``read`` returns for each file, plain values; what is remembered of an unchanged file is not read.

    A file is unchanged if its size, time and permissions (ctime) are. The memory of a kind and of a folder is a file in
    ``~/.cache/randsac_mm/scans`` (or below ``XDG_CACHE_HOME``); a damaged one is made anew.
    """
    if not paths:
        return []
    root = os.path.abspath(os.path.commonpath({os.path.dirname(path) or '.' for path in paths}))
    name = hashlib.sha256(f'{_VERSION} {kind} {root}'.encode(errors='surrogateescape')).hexdigest()[:16]
    memory = cache_folder() / 'scans' / f'{name}.memory'
    known = recall(memory) or {}
    with ThreadPool(_THREADS) as pool:
        stamps = pool.map(_stamp, paths, chunksize=256)
        new = [
            (path, stamp)
            for path, stamp in zip(paths, stamps, strict=True)
            if stamp is None or known.get(path, [None])[0] != stamp
        ]
    # Threads of Python share one core; processes cost a tenth of a second.
    many = len(new) > _FEW and sys.platform == 'linux'
    ignore_ctrl_c = signal.signal, (signal.SIGINT, signal.SIG_IGN)  # this process ends them
    with get_context('fork').Pool(_THREADS, *ignore_ctrl_c) if many else ThreadPool(_THREADS) as pool:
        found = pool.imap(read, [path for path, _ in new], chunksize=32)
        for (path, stamp), entry in zip(new, log_progress(found, f'{root}: files checked', len(new)), strict=True):
            known[path] = [stamp, entry]
    if new:
        remember(memory, known)
    return [known[path][1] for path in paths]


def cache_folder() -> Path:
    """Return the folder for what can be found out again: ``~/.cache/randsac_mm``, or below ``XDG_CACHE_HOME``."""
    return Path(os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache', 'randsac_mm')


def recall(memory: Path) -> Any:
    """Return what :func:`remember` wrote, or None if there is nothing or it is damaged."""
    try:
        checksum, _, content = memory.read_bytes().partition(b'\n')
        if checksum == b'%08x' % zlib.crc32(content):
            return json.loads(content)
    except FileNotFoundError:
        return None
    except OSError:  # such as a folder
        pass
    print_log(f'{memory} is damaged, it is made anew', 'current', logging.WARNING)
    return None


def remember(memory: Path, known: Any) -> None:
    """Write plain values as JSON behind a line with its CRC-32."""
    content = json.dumps(known).encode()
    try:
        if memory.is_dir():
            shutil.rmtree(memory)
        with atomic_write(memory) as temporary:
            temporary.write_bytes(b'%08x\n%b' % (zlib.crc32(content), content))
    except OSError as error:  # a full disk or a read-only home only costs time
        print_log(f'{memory} could not be written, the files will be read again next time: {error}', 'current')


def _stamp(path: str) -> list[int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]  # ctime: permissions as well


def _read_header(path: str, decode: bool) -> tuple[Any, ...]:
    fault = find_fault(path, decode)
    if fault is not None:
        return (fault,)
    with open(path, 'rb') as file, open_image(file) as image:
        if image.format == 'PNG' and b'eXIf' in Path(path).read_bytes():
            with suppress(Exception):  # pixels that are damaged in the middle
                image.load()  # EXIF may come behind the pixels
        # Not PNG's own getexif, which decodes the pixels of every file to look for it.
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
        width, height = image.size
        if image.format == 'TIFF':  # whose size Pillow turns when it opens the file
            width, height = image.tag_v2[256], image.tag_v2[257]
        return None, image.mode, height, width, orientation if orientation in range(1, 9) else 1
