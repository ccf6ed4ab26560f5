"""Limits of image files, checked by their headers before anything is decoded, and JPEG files that lack data."""

import re
from functools import cache
from io import BytesIO
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageChops

FORMATS = ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')  # whatever the name of the file ends in
MAX_PIXELS = 178_956_970  # Pillow's default as well
_MAX_SIDE = 65_535  # of a JPEG
_MAX_TILE = 4096  # side of a TIFF's tile in pixels, for which libtiff takes memory even if the image is smaller
_MAX_SCANS = 100  # encoders write 15 at most
_LOCK = Lock()
# Markers of a JPEG: of frames, those of Huffman coding among them, of its end and of a scan.
_FRAMES, _HUFFMAN, _EOI, _SOS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, {0xC0, 0xC1, 0xC2}, 0xD9, 0xDA
_IS_MARKER = ~np.isin(np.arange(256), [0, *range(0xD0, 0xD8), 255])  # but those between entropy-coded data
_CUT = 'data are missing before the end mark: the file was cut, or its writing was interrupted'
_NO_CODE = b'\xff\x00' * 8  # ones, which are no Huffman code, as many as the decoder reads in advance
_NOISE = b''.join(bytes([*range(1, 255), 255, 0xD0 + k % 8]) for k in range(17))  # with marks of restarts


def open_image(file: BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image, as Pillow does, if it is of one of ``FORMATS`` and within the limits.

    Raises:
        ValueError: If the image has more than ``max_pixels``, 65,535 pixels in a row or column, or too large tiles.
        Exception: What Pillow raises for a file that is no such image.
    """
    try:
        if max_pixels <= MAX_PIXELS:
            image = Image.open(file, formats=FORMATS)
        else:
            with _LOCK:  # Pillow's limit is one for the process
                default, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
                try:
                    image = Image.open(file, formats=FORMATS)
                finally:
                    Image.MAX_IMAGE_PIXELS = default
        _check_pixels(image.width * image.height, max_pixels)
    except Image.DecompressionBombError as error:
        _check_pixels(int(re.search(r'\d+', str(error)).group()), max_pixels)
        raise
    tags = getattr(image, 'tag_v2', {})  # of a TIFF: 322 and 323 are the sides of its tiles
    for side, tile in zip(image.size, (tags.get(322, 0), tags.get(323, 0)), strict=True):
        if side > _MAX_SIDE:
            raise ValueError(f'a side of {side:,} pixels, above {_MAX_SIDE:,}; cut the image into parts')
        if tile > max(_MAX_TILE, *image.size):
            raise ValueError(f'tiles of {tile:,} pixels, above {_MAX_TILE:,} and the size of the image; save it anew')
    return image


def _check_pixels(pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise ValueError(
            f'{pixels} pixels, above max_pixels={max_pixels}; reduce or cut the image, or set max_pixels of '
            'LoadImageStrict; tools/predict.py has --max-pixels, and predicts in windows by model.test_cfg.mode=slide'
        )


def load_pixels(
    image: Image.Image, file: BinaryIO, max_pixels: int = MAX_PIXELS, only_check: bool = False
) -> Image.Image:
    """Decode an image that :func:`open_image` has opened; return it, or one like it.

    Of a JPEG that ends early, in spite of its end mark, libjpeg makes up the rest. It is refused if a scan is missing
    or if the only scan lacks more than a few blocks; with ``only_check`` also if one of several scans lacks data, for
    which the file is decoded twice.

    Args:
        image: The image.
        file: Its file.
        max_pixels: The limit; the number of a JPEG's scans has one that decreases with its size.
        only_check: Whether the pixels are not needed, so that a JPEG may be decoded at an eighth of its size.

    Raises:
        ValueError: If a JPEG lacks data or has too many scans.
        OSError: If the file is damaged.
    """
    if image.format not in ('JPEG', 'MPO'):
        image.load()
        return image
    file.seek(0)
    data = file.read()
    ends, missing = _read_scans(data, image.width * image.height, max_pixels)
    if missing:
        raise ValueError(_CUT)
    single = len(ends) == 1
    if single and _needs_no_end():
        whole = _reopen(image, data[: ends[0]] + _NO_CODE, only_check)
        try:
            whole.load()
        except OSError as error:
            raise ValueError(_CUT) from error
        return whole
    whole = _reopen(image, data, only_check and single)
    whole.load()
    if only_check and len(ends) > 1:
        # What comes behind the data of a scan is skipped, unless some are missing.
        pieces = [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]
        other = _reopen(image, _NOISE.join(pieces), False)
        if ImageChops.difference(whole, other).getbbox():
            raise ValueError(_CUT)
    return whole


@cache
def _needs_no_end() -> bool:
    """Return whether Pillow's decoder ends behind the data of all pixels of a JPEG of one scan."""
    buffer = BytesIO()
    Image.new('L', (1, 1)).save(buffer, 'JPEG')
    try:
        Image.open(BytesIO(buffer.getvalue()[:-2] + _NO_CODE)).load()
    except OSError:
        return False
    return True


def _reopen(image: Image.Image, data: bytes, small: bool) -> Image.Image:
    copy = type(image)(BytesIO(data)) if image.format == 'JPEG' else Image.open(BytesIO(data), formats=['JPEG'])
    if small:
        copy.draft('RGB', (1, 1))  # 8 times smaller
    return copy


def _read_scans(data: bytes, pixels: int, max_pixels: int) -> tuple[list[int], bool]:
    """Return where the scans of a JPEG end, and whether some are missing; nothing of a kind that is not checked."""
    codes = np.frombuffer(data, np.uint8)
    starts = np.flatnonzero(codes[:-1] == 255)
    starts = starts[_IS_MARKER[codes[starts + 1]]]
    position, ends, in_scan, kind, components, complete = 2, [], False, 0, 0, set()
    for start in starts.tolist():
        if start < position:  # in a segment, such as a thumbnail
            continue
        if in_scan:
            ends.append(start)
            if len(ends) > _MAX_SCANS or len(ends) * pixels > 10 * max(max_pixels, pixels):
                raise ValueError(f'more than {len(ends) - 1} scans for {pixels} pixels; save the image anew')
        marker, position = data[start + 1], start + 2 + int.from_bytes(data[start + 2 : start + 4], 'big')
        in_scan, segment = marker == _SOS, data[start + 4 : position]
        if marker == _EOI:
            return (ends, len(complete) < 64 * components) if kind in _HUFFMAN else ([], False)
        if (in_scan or marker in _FRAMES) and len(segment) < 6:  # the decoder will say why
            break
        if marker in _FRAMES:
            kind, components = marker, segment[5]
        elif in_scan:
            first, last, precision = segment[-3:]
            if precision % 16 == 0:  # no bit of these coefficients is to come
                complete |= {(name, k) for name in segment[1:-3:2] for k in range(first, last + 1)}
    return [], False
