"""Limits of image files, checked by their headers before anything is decoded, and JPEG files that lack data.

The limit of pixels is Pillow's: twice ``PIL.Image.MAX_IMAGE_PIXELS``, 178,956,970 by default.
"""

import re
from functools import cache
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops

FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')  # whatever the name of the file ends in
_MAX_SIDE = 65_535  # of a JPEG
_MAX_TILE = 4096  # side of a TIFF's tile in pixels, for which libtiff takes memory even if the image is smaller
_MAX_SCANS, _MAX_SCANNED = 100, 2 * 10**9  # scans of a JPEG, of which encoders write 15 at most; scans times pixels
# Markers of a JPEG: of frames, those of Huffman coding among them, of its end and of a scan.
_FRAMES, _HUFFMAN, _EOI, _SOS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, {0xC0, 0xC1, 0xC2}, 0xD9, 0xDA
_IS_MARKER = ~np.isin(np.arange(256), [0, *range(0xD0, 0xD8), 255])  # but those between entropy-coded data
_CUT = 'data are missing before the end mark: the file was cut, or its writing was interrupted'
_NO_CODE = b'\xff\x00' * 8  # ones, which are no Huffman code, as many as the decoder reads in advance
# Bytes without order, with marks of restarts; the first completes a byte of ones behind which a file was cut.
_NOISE = b'\0' + b''.join(
    bytes([*((101 * j + 57 * k) % 255 for j in range(1, 65)), 255, 0xD0 + k % 8]) for k in range(32)
)


def open_image(file: BinaryIO) -> Image.Image:
    """Open an image as Pillow does; raise ValueError if it is beyond the limits, and others if it is not readable."""
    try:
        image = Image.open(file, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ValueError(
            f'{re.search("[0-9]+ pixels", str(error)).group()}, above the limit of {2 * Image.MAX_IMAGE_PIXELS}; '
            'reduce or cut the image, or predict it with tools/predict.py --max-pixels'
        ) from error
    tags = getattr(image, 'tag_v2', {})  # of a TIFF: 322 and 323 are the sides of its tiles
    if max(image.size) > _MAX_SIDE:
        raise ValueError(f'a side of {max(image.size)} pixels, above {_MAX_SIDE}; cut the image')
    if max(tags.get(322, 0), tags.get(323, 0)) > max(_MAX_TILE, *image.size):
        raise ValueError(f'tiles of more than {_MAX_TILE} pixels in a smaller image; save it anew')
    return image


def load_pixels(image: Image.Image, file: BinaryIO, only_check: bool = False) -> None:
    """Decode the image that :func:`open_image` has opened from a file.

    Of a JPEG that ends early, in spite of its end mark, libjpeg makes up the rest. It is refused if a scan is missing
    or if the only scan lacks more than a few blocks. With ``only_check`` it may be decoded at an eighth of its size,
    and it is also refused if one of several scans lacks data, for which it is decoded twice.

    Raises:
        ValueError: If a JPEG lacks data or has too many scans.
        OSError: If the file is damaged.
    """
    if image.format not in ('JPEG', 'MPO'):
        image.load()
        return
    file.seek(0)
    data = file.read()
    ends, few = _read_scans(data, image.width * image.height)
    if few:
        raise ValueError(_CUT)
    if len(ends) == 1 and _needs_no_end():  # it ends behind the data of all pixels, or is truncated
        image.fp = BytesIO(data[: ends[0]] + _NO_CODE)
    if only_check and len(ends) < 2:
        image.draft('RGB', (1, 1))
    elif only_check:  # what comes behind the data of a scan is skipped, unless some are missing
        pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
        if ImageChops.difference(image, open_image(BytesIO(_NOISE.join(pieces)))).getbbox():
            raise ValueError(_CUT)
    image.load()


@cache
def _needs_no_end() -> bool:
    """Return whether this Pillow decodes a JPEG of one scan without an end mark."""
    buffer = BytesIO()
    Image.new('L', (1, 1)).save(buffer, 'JPEG')
    try:
        return bool(Image.open(BytesIO(buffer.getvalue()[:-2] + _NO_CODE)).load())
    except OSError:
        return False


def _read_scans(data: bytes, pixels: int) -> tuple[list[int], bool]:
    """Return where the scans of a JPEG end, and whether they are too few; nothing of a kind that is not checked."""
    codes = np.frombuffer(data, np.uint8)
    starts = np.flatnonzero(codes[:-1] == 255)
    starts = starts[_IS_MARKER[codes[starts + 1]]]
    position, ends, in_scan, kind, components, complete = 2, [], False, 0, 0, set()
    for start in starts.tolist():
        if start < position:  # in a segment, such as a thumbnail
            continue
        if in_scan:
            ends.append(start)
            if len(ends) > _MAX_SCANS or (len(ends) > 10 and len(ends) * pixels > _MAX_SCANNED):
                raise ValueError(f'more than {len(ends) - 1} scans of {pixels} pixels; save the image anew')
        marker, position = data[start + 1], start + 2 + int.from_bytes(data[start + 2 : start + 4], 'big')
        in_scan, segment = marker == _SOS, data[start + 4 : position]
        if marker == _EOI:
            few = len(complete) < 64 * components or pixels > 1024 * len(data)  # 64 pixels take more than half a bit
            return (ends, few) if kind in _HUFFMAN else ([], False)
        if (in_scan or marker in _FRAMES) and len(segment) < 6:  # the decoder raises the error
            break
        if marker in _FRAMES:
            kind, components = marker, segment[5]
        elif in_scan:
            first, last, precision = segment[-3:]
            if precision % 16 == 0:  # no bit of these coefficients is to come
                complete |= {(name, k) for name in segment[1:-3:2] for k in range(first, last + 1)}
    return [], False
