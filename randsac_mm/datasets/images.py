"""Finding, checking and reading image files, by Pillow.

Pillow and not cv2: it refuses a truncated file where cv2 may return half a picture, names the fault where cv2 returns
None, knows the size of an image before decoding it, and reads more formats.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
from mmengine.logging import print_log
from PIL import Image, ImageOps, UnidentifiedImageError

IMG_EXTENSIONS = (
    *('.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.pbm', '.pgm'),
    *('.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp'),
)
_TAILS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}  # what a complete file ends with
_PROGRESS_SECONDS = 30
Item = TypeVar('Item')


class UnreadableImageError(ValueError):
    """A file is no image, is damaged, or has more pixels than Pillow decodes (twice ``Image.MAX_IMAGE_PIXELS``)."""


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

    EXIF orientation is applied. Grey, palette, CMYK and other colour spaces become RGB; 16-bit values keep their upper
    8 bits; what is transparent is shown on white; of an animation the first frame is taken.

    Returns:
        Array (H, W, 3) of uint8, in RGB, possibly read-only.

    Raises:
        UnreadableImageError: If the file is missing, empty, truncated, no image, too large, or has floating-point
            pixels, which have no agreed range. The message names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            with suppress(Exception):  # pixels are sound even if the EXIF block is damaged
                ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_to_rgb(image))
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise UnreadableImageError(f'{printable(path)}: {_reason(path, error)}') from error


def fit_image(image: np.ndarray, size: tuple[int, int], grey: bool = False) -> np.ndarray:
    """Resize an image (H, W, C), uint8, C of 1 or 3, until it just covers a size, and crop its centre: (*size, C).

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
            with Image.open(file) as image:
                _check_mode(image)
                if decode or not tail.endswith(_TAILS.get(image.format, b'no such end')):
                    image.draft('RGB', (1, 1))  # a JPEG is read to its end, but 8 times smaller; others ignore it
                    image.load()
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        return _reason(path, error)
    return None


def printable(path: str | os.PathLike) -> str:
    """Return a path as text that can be printed even if its name is not valid UTF-8."""
    return os.fspath(path).encode('utf-8', 'backslashreplace').decode()


def log_progress(items: Iterable[Item], text: str, total: int) -> Iterator[Item]:
    """Yield ``items`` unchanged, and log their number every half a minute."""
    logged = time.monotonic()
    for count, item in enumerate(items, 1):
        if time.monotonic() - logged > _PROGRESS_SECONDS:
            logged = time.monotonic()
            print_log(f'{text}: {count:,} of {total:,}', 'current')
        yield item


def _check_mode(image: Image.Image) -> None:
    if image.mode == 'F':
        raise ValueError('floating-point pixels have no agreed range; convert the file to 8 or 16 bits')


def _to_rgb(image: Image.Image) -> Image.Image:
    _check_mode(image)
    if image.mode.startswith('I'):  # Pillow itself would clip 16-bit grey to white
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert('RGB')
    if image.mode in ('LA', 'PA', 'RGBA', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
        return Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB')
    return image.convert('RGB')


def _reason(path: str | os.PathLike, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return 'does not exist, or is a broken link'
    if isinstance(error, UnidentifiedImageError):
        return 'no image that Pillow can read' if os.path.getsize(path) else 'empty (0 bytes)'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
