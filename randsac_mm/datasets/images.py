"""Finding, checking and reading image and mask files, by Pillow.

Pillow and not cv2: it refuses a truncated file where cv2 may return half a picture, names the fault where cv2 returns
None, knows the size of an image before decoding it, and reads more formats.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TypeVar

import cv2
import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from .image_limits import FORMATS, load_pixels, open_image

IMG_EXTENSIONS = (
    *('.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.pbm', '.pgm'),
    *('.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp'),
)
_TAILS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}  # what a complete file ends with
_PROGRESS_SECONDS = 30
_PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 262, 274, 339  # TIFF and EXIF tags
Item = TypeVar('Item')


class UnreadableImageError(ValueError):
    """A file is no image, is damaged, or is beyond the limits of :mod:`randsac_mm.datasets.image_limits`."""


def spread(files: Sequence[Item], num: int) -> list[Item]:
    """Reorder files so that the first ``num`` are from all over the list, and so from all folders if there are few.

    Example:
        >>> spread(list('aaabbbccc'), 3)
        ['a', 'b', 'c', 'a', 'b', 'c', 'a', 'b', 'c']
    """
    step = max(1, -(-len(files) // num))
    return [file for first in range(step) for file in files[first::step]]


def find_image_files(folder: str | os.PathLike, skip: Sequence[Path] = ()) -> list[Path]:
    """Return the files of :func:`walk_files` that end in ``IMG_EXTENSIONS``, in any case, sorted as strings.

    No file is opened, and broken links are returned as well, so that whoever reads them can report them.

    Raises:
        OSError: If a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found = sorted(name for name in walk_files(folder, fail, skip) if name.lower().endswith(IMG_EXTENSIONS))
    return [Path(folder, name) for name in found]


def walk_files(root: str | os.PathLike, onerror: Callable[[OSError], None], skip: Sequence[Path] = ()) -> Iterator[str]:
    """Yield the files below a folder, of any nesting, relative to it.

    Links to folders are followed, and a folder that is reached twice is read once. Hidden files and folders (``.name``)
    and those of ``skip`` are left out. ``onerror`` is called with the error, whose ``filename`` is the folder, for each
    folder that cannot be read.
    """
    seen = {os.path.realpath(folder) for folder in skip} - {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, onerror=onerror, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        relative = os.path.relpath(folder, root)
        for name in files:
            if not name.startswith('.'):
                yield name if relative == '.' else os.path.join(relative, name)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image file completely, upright and in colour.

    EXIF orientation is applied. Grey, palette, CMYK, LAB and other colour spaces become RGB; what is transparent is
    shown on white; of an animation the first frame is taken. Of values of more than 8 bits the upper 8 of those bits
    are taken that the file uses: the fewest of 8, 10, 12, ... that contain its largest value (of colours, not alpha).

    Returns:
        Array (H, W, 3) of uint8, in RGB, possibly read-only.

    Raises:
        UnreadableImageError: If the file is missing, empty, truncated, no image, too large, or has floating-point or
            negative pixels, which have no agreed range. The message names the file.
    """
    with _open(path) as (image, raw_mode, file):
        load_pixels(image, file)
        return _turn(np.asarray(_to_rgb(image, raw_mode, file)), image)


def read_mask(path: str | os.PathLike) -> np.ndarray:
    """Read a file of one integer a pixel, such as the index of a class, exactly as stored, and upright (EXIF).

    Of a palette image these are the indices, never the colours.

    Returns:
        Array (H, W) of uint8, or of int32 if a value is above 255.

    Raises:
        UnreadableImageError: If the file is unreadable, may be compressed with loss, has several frames, or is not one
            integer from 0 a pixel: colours, transparency, floating-point values. The message names file and mode.
    """
    with _open(path) as (image, raw_mode, _):
        frames = 'several' if getattr(image, 'is_animated', False) else 1  # a count would read them all
        lossy = image.format in ('JPEG', 'MPO', 'WEBP') or 'jpeg' in str(image.info.get('compression'))
        changed = 'I' in raw_mode.partition(';')[2] or (image.format == 'PPM' and image.tile[0][0] != 'raw')
        if lossy or changed or frames != 1:  # Pillow inverts or scales what is changed
            raise ValueError(
                f'{image.format}, mode {raw_mode}, {frames} frames: save each mask as a PNG of 8 or 16 bits'
            )
        image.load()
        values, alpha = np.asarray(image), int(image.mode in ('LA', 'PA', 'RGBA'))
        if (alpha or image.mode == 'RGB') and ';16' not in raw_mode:
            colours, opacity = np.split(values, [values.shape[2] - alpha], axis=2)
            if (opacity == 255).all() and (colours == colours[..., :1]).all():
                values = colours[..., 0]
        if values.ndim == 3 or values.min() < 0:
            raise ValueError(
                f'mode {image.mode} is not one number from 0 a pixel: convert colours to numbers of classes'
            )
        if raw_mode[:3] in ('L;2', 'L;4'):  # grey of 2 and 4 bits, which Pillow scales to 8
            values = values // (85 if raw_mode[2] == '2' else 17)
        return _turn(values.astype(np.uint8 if values.max() <= 255 else np.int32), image)


def fit_image(image: np.ndarray, size: tuple[int, int], grey: bool = False) -> np.ndarray:
    """Resize an image (H, W, C), uint8, C of 1 or 3, until it just covers a size, and crop its centre: ``(*size, C)``.

    With ``grey`` three channels become one.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    if grey:
        picture = picture.convert('L')
    return np.array(ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)).reshape(*size, -1)


def find_fault(path: str | os.PathLike, decode: bool = False) -> str | None:
    """Return why an image file is not readable, or None; without decoding it if possible.

    Reads the header for type and size, and the last bytes for the mark that ends a complete JPEG or PNG. A file
    without that mark, such as a truncated one or one of another type, is decoded to be sure.

    Args:
        path: The file.
        decode: Whether to decode every file, which also finds damage in the middle.
    """
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8))
            tail = file.read()
            file.seek(0)
            with open_image(file) as image:
                _check_range(image)
                if decode or not tail.endswith(_TAILS.get(image.format, b'no such end')):
                    load_pixels(image, file, only_check=True)
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        return _reason(path, error)
    return None


def printable(path: str | os.PathLike) -> str:
    """Return a path as text that can be printed even if its name is not valid UTF-8."""
    return os.fspath(path).encode('utf-8', 'backslashreplace').decode()


def log_progress(items: Iterable[Item], text: str, total: int) -> Iterator[Item]:
    """Yield ``items`` unchanged, with a progress bar on a terminal, else with their number every half a minute."""
    if sys.stderr.isatty():
        yield from track(items, text, total, console=Console(stderr=True), transient=True)
        return
    logged = time.monotonic()
    for count, item in enumerate(items, 1):
        if time.monotonic() - logged > _PROGRESS_SECONDS:
            logged = time.monotonic()
            print_log(f'{text}: {count:,} of {total:,}', 'current')
        yield item


@contextmanager
def _open(path: str | os.PathLike) -> Iterator[tuple[Image.Image, str, BinaryIO]]:
    """Open an image and how its pixels are stored, such as ``'RGB;16B'``; make any error an UnreadableImageError."""
    try:
        with open(path, 'rb') as file, open_image(file) as image:  # by name, Pillow 13 scrambles turned grey TIFFs
            _check_range(image)
            args = image.tile[0][3] if image.tile else ''
            yield image, args if isinstance(args, str) else str(args[0]), file
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise UnreadableImageError(f'{printable(path)}: {_reason(path, error)}') from error


def _check_range(image: Image.Image) -> None:
    """Refuse, by the header, pixels without an agreed range, or whose range Pillow gets wrong."""
    tags = getattr(image, 'tag_v2', {})  # of a TIFF
    if image.mode == 'F':
        raise ValueError('floating-point pixels have no agreed range; convert the file to 8 or 16 bits')
    if image.mode == 'L' and 2 in np.atleast_1d(tags.get(_SAMPLE_FORMAT, 1)):
        raise ValueError('signed 8-bit pixels; convert the file to unsigned ones')
    if image.mode.startswith('I') and tags.get(_PHOTOMETRIC) == 0:
        raise ValueError('pixels of 16 bits or more with 0 for white; convert the file to 0 for black')


def _turn(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """Turn pixels upright, by the EXIF orientation that a loaded image still has."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # pixels are sound even if the EXIF block is damaged
        orientation = 1
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    rows, columns = (-1 if orientation in flipped else 1 for flipped in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(pixels[::rows, ::columns])


def _to_rgb(image: Image.Image, raw_mode: str, file: BinaryIO) -> Image.Image:
    if image.mode.startswith('I'):
        clear = np.asarray(image) == image.info.get('transparency', -1)
        image = Image.fromarray(np.where(clear, 255, _to_8_bits(np.asarray(image))).astype(np.uint8))
    elif ';16' in raw_mode and image.mode in ('RGB', 'RGBA'):
        image = _to_used_bits(image, file)
    if image.mode in ('LA', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    return image.convert('RGB')


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    if values.min() < 0:
        raise ValueError(f'negative value {values.min()} (or one above 2147483647); convert the file to 8 or 16 bits')
    bits = min(max(8, (int(values.max()).bit_length() + 1) // 2 * 2), 31)
    return (values >> (bits - 8)).astype(np.uint8)


def _to_used_bits(image: Image.Image, file: BinaryIO) -> Image.Image:
    """Return 16-bit colours, of which Pillow has read the upper bytes, by the bits that they use."""
    upper, clear = np.asarray(image), 'transparency' in image.info
    if upper[..., :3].max() >= 1 << 6 and not clear:  # more than 14 bits, so it is right
        return image
    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is not None:  # cv2 reads fewer files than Pillow
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if upper.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)
    if pixels is None or clear or not np.array_equal(pixels >> 8, upper):  # cv2 may not turn a TIFF
        raise ValueError('16-bit colours of this kind cannot be read; convert the file to 8 bits')
    return Image.fromarray(np.dstack([_to_8_bits(pixels[..., :3]), upper[..., 3:]]))


def _reason(path: str | os.PathLike, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return 'does not exist, or is a broken link'
    if isinstance(error, UnidentifiedImageError):
        return f'no image of {", ".join(FORMATS)}' if os.path.getsize(path) else 'empty (0 bytes)'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
