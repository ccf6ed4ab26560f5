"""Finding, checking and reading image files, by Pillow.

Pillow and not cv2: Pillow refuses a truncated file where cv2 may return half a picture, tells apart what cv2 reports as
None, knows the size of an image before decoding it, and reads more formats.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

IMG_EXTENSIONS = (
    *('.bmp', '.gif', '.jfif', '.jpe', '.jpeg', '.jpg', '.pbm', '.pgm'),
    *('.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp'),
)
MAX_PIXELS = 89_478_485  # where Pillow begins to suspect a decompression bomb; 9459 x 9459
_TAILS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}  # what a complete file ends with
_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(ValueError):
    """Raised for a file that is no image, is damaged, or is larger than allowed."""


def find_image_files(folder: str | os.PathLike, skip: Sequence[Path] = ()) -> list[Path]:
    """Search a folder for images, by the endings in ``IMG_EXTENSIONS`` (upper or lower case), without opening any.

    Broken links are returned as well, so that whoever reads them can report them.

    Args:
        folder: The folder; see :func:`walk_files` for what is searched.
        skip: Folders below it that are left out.

    Returns:
        The files, each beginning with ``folder``, sorted as strings.

    Raises:
        OSError: If a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    found = sorted(name for name in walk_files(folder, fail, skip) if name.lower().endswith(IMG_EXTENSIONS))
    return [Path(folder, name) for name in found]


def walk_files(
    root: str | os.PathLike, onerror: Callable[[OSError], None], skip: Sequence[Path] = ()
) -> Iterator[str]:
    """List the files below a folder, of any nesting.

    Links to folders are followed, and a folder that is reached twice is read once. Hidden files and folders
    (``.name``) are skipped.

    Args:
        root: The folder.
        onerror: Called with the error, whose ``filename`` is the folder, for each folder that cannot be read.
        skip: Folders below it that are left out.

    Yields:
        Paths relative to ``root``.
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


def read_image(path: str | os.PathLike, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read an image file completely, upright and in colour.

    The picture is turned as its EXIF orientation says. Grey, palette, CMYK and other colour spaces become RGB; 16-bit
    values keep their upper 8 bits; what is transparent is shown on white; of an animation the first frame is taken.

    Args:
        path: The file.
        max_pixels: Largest height times width to decode.

    Returns:
        Array (H, W, 3) of uint8, in RGB, possibly read-only.

    Raises:
        UnreadableImageError: If the file is missing, empty, truncated, no image, too large, or holds floating-point
            pixels, which have no agreed range. The message names the file.
    """
    try:
        with Image.open(path) as image:
            _check_size(image, max_pixels)
            image.load()
            return np.asarray(_turn(_to_rgb(image), image))
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        raise UnreadableImageError(f'{printable(path)}: {_reason(path, error)}') from error


def find_fault(path: str | os.PathLike, max_pixels: int = MAX_PIXELS, decode: bool = False) -> str | None:
    """Tell why an image file is not readable, quickly.

    Reads the header for type and size, and the last bytes for the mark that ends a complete JPEG or PNG. A file
    without that mark, such as a truncated one or one of another type, is decoded to be sure.

    Args:
        path: The file.
        max_pixels: Largest height times width to accept.
        decode: Whether to decode every file, which also finds damage in the middle.

    Returns:
        The reason in words, or None if no fault was found.
    """
    try:
        with open(path, 'rb') as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8))
            tail = file.read()
            file.seek(0)
            with Image.open(file) as image:
                _check_size(image, max_pixels)
                _check_mode(image)
                if decode or not tail.endswith(_TAILS.get(image.format, b'no such end')):
                    image.draft('RGB', (1, 1))  # a JPEG is read to its end, but 8 times smaller; others ignore it
                    image.load()
    except Exception as error:  # decoders raise anything from SyntaxError to struct.error
        return _reason(path, error)
    return None


def printable(path: str | os.PathLike) -> str:
    """Write a path so that it can be printed even if its name is not valid UTF-8."""
    return os.fspath(path).encode('utf-8', 'backslashreplace').decode()


def check_max_pixels(max_pixels: int) -> int:
    """Return ``max_pixels`` if it is positive and Pillow would decode that much, else raise ValueError."""
    limit = None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    if max_pixels < 1 or (limit is not None and max_pixels > limit):
        raise ValueError(
            f'max_pixels={max_pixels} must be between 1 and {limit}, where Pillow itself stops; for larger images '
            'raise PIL.Image.MAX_IMAGE_PIXELS first, or cut them into tiles'
        )
    return max_pixels


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ValueError(f'{width} x {height} pixels are more than max_pixels={max_pixels}')


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
    return image if image.mode == 'RGB' else image.convert('RGB')


def _turn(picture: Image.Image, source: Image.Image) -> Image.Image:
    try:
        orientation = source.getexif().get(_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing about the pixels
        orientation = 1
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _reason(path: str | os.PathLike, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return 'does not exist, or is a broken link'
    if isinstance(error, UnidentifiedImageError):
        return 'no image that Pillow can read' if os.path.getsize(path) else 'empty (0 bytes)'
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
