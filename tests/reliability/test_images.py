"""Attacks on readers of images: mutated files, JPEGs cut before their end mark, bombs, other formats.

RELIABILITY_RUNS=10000 python -m pytest tests/reliability/test_images.py -rP
"""

import os
import resource
import signal
import struct
import time
import zlib
from collections import Counter
from contextlib import suppress
from functools import partial
from io import BytesIO
from multiprocessing import get_context

import numpy as np
import pytest
from datasets.image_files import hostile, smooth
from PIL import Image, ImageOps

from randsac_mm.datasets import LoadImageStrict, UnreadableImageError, find_fault, read_image, read_mask

RUNS = int(os.environ.get('RELIABILITY_RUNS', '300'))
SECONDS = 10  # for a file, after which a reader counts as hanging
pytestmark = pytest.mark.filterwarnings('ignore::UserWarning', 'ignore::RuntimeWarning')  # Pillow's, of damage


def encode(image, kind, **options):
    image.save(buffer := BytesIO(), kind, **options)
    return buffer.getvalue()


def check(path, decode=False):
    if fault := find_fault(path, decode):
        raise UnreadableImageError(f'{path}: {fault}')
    return read_image(path) if decode else None


check_and_read = partial(check, decode=True)


def attempt(reader, path):
    """Return what a reader returns, or the message by which it refuses the file."""
    try:
        return reader(path)
    except UnreadableImageError as error:
        return str(error)


def mutate(content, random):
    """Change some bytes, or zero, remove or repeat a piece, most near the beginning; or cut the file."""
    kind, begin = random.integers(6), int(len(content) * random.random() ** random.choice([1, 6]))
    end = begin + int(2 ** random.uniform(0, 8))
    piece = content[begin:end]
    if kind < 2:
        piece = bytearray(piece)
        for place in random.integers(0, len(piece), 3):
            piece[place] = random.integers(256) if kind else piece[place] ^ 1 << random.integers(8)
    if kind == 2:
        return content[:begin] + random.choice([b'', b'\xff\xd9', b'\0\0\0\0IEND\xaeB`\x82'])
    return content[:begin] + [piece, piece, b'', bytes(len(piece)), b'', piece * 2][kind] + content[end:]


def read_by_pillow(path):
    """Return pixels (H, W, 3), by Pillow alone; None where its meaning is not ours: not opaque, more than 8 bits."""
    with Image.open(path) as image:
        if image.mode not in ('L', 'RGB') or 'transparency' in image.info or ';16' in str(image.tile):
            return None
        with suppress(SyntaxError):  # damaged EXIF
            image = ImageOps.exif_transpose(image)
        return np.asarray(image.convert('RGB'))


def test_mutated_files_are_read_as_they_are_or_refused(tmp_path):
    random, image, counts = np.random.default_rng(0), Image.fromarray(smooth()), Counter()
    (tmp_path / 'originals').mkdir()
    originals = [path.read_bytes() for path in hostile(tmp_path / 'originals')]
    originals += [encode(image, kind) for kind in ('BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TIFF', 'WEBP')]
    originals += [encode(image, 'JPEG', progressive=True, restart_marker_blocks=2)]
    originals += [encode(image, 'TIFF', compression=kind) for kind in ('tiff_lzw', 'tiff_adobe_deflate', 'jpeg')]
    load = LoadImageStrict()
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail('a reader hangs'))
    for run in range(RUNS):
        path = tmp_path / 'mutant'
        path.write_bytes(mutate(originals[run % len(originals)], random))
        signal.alarm(SECONDS)
        pixels, *others = [attempt(reader, path) for reader in (read_image, check_and_read, read_mask, check)]
        loaded = attempt(load, {'img_path': path})
        signal.alarm(0)
        assert all(str(path) in message for message in [pixels, loaded, *others] if isinstance(message, str)), run
        if isinstance(pixels, str):
            counts['refused'] += 1
            assert isinstance(loaded, str), run
        else:
            assert np.array_equal(loaded['img'][..., ::-1], pixels), run
            assert others[2] is None, run
            expected = read_by_pillow(path)
            counts['not compared' if expected is None else 'equal'] += 1
            assert expected is None or np.array_equal(pixels, expected), run
    print(f'{RUNS} mutated files: {dict(counts)}')
    assert min(counts['refused'], counts['equal']) > RUNS / 5


@pytest.mark.parametrize('progressive', [False, True])
def test_jpegs_that_lack_data_are_refused_and_flat_ones_are_not(tmp_path, progressive):
    """Whatever shows, but for some blocks: of one scan by every reader, of several by the check that decodes."""
    random, path, missed = np.random.default_rng(1), tmp_path / 'a.jpg', []
    for run in range(RUNS // 2):
        small = Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        pixels = np.array(small.resize(random.integers(1, 80, 2)))
        pixels[random.integers(len(pixels) + 1) :] = random.choice([0, 127, 128, 255])  # a sky, or libjpeg's grey
        options = dict(quality=int(random.choice([5, 75, 100])), subsampling=int(random.integers(3)))
        options.update(progressive=progressive, restart_marker_blocks=int(random.integers(3)))
        whole = encode(Image.fromarray(pixels).convert(str(random.choice(['L', 'RGB', 'CMYK']))), 'JPEG', **options)
        path.write_bytes(whole)
        expected = check_and_read(path).astype(int)
        assert np.array_equal(expected, np.asarray(Image.open(BytesIO(whole)).convert('RGB'))), run
        for cut in random.integers(whole.index(b'\xff\xda') + 10, len(whole) - 2, 2):
            path.write_bytes(whole[:cut] + b'\xff\xd9')
            found = [attempt(reader, path) for reader in (check_and_read, read_image)[: 1 + (not progressive)]]
            shown = [read for read in found if not isinstance(read, str) and np.abs(read - expected).max() > 16]
            missed += [len(whole) - 2 - int(cut)] * len(shown)
    print(f'{RUNS} files cut, progressive={progressive}: {len(missed)} not refused, which lack bytes: {sorted(missed)}')
    assert max(missed, default=0) < 128
    assert len(missed) < RUNS / 20


@pytest.mark.parametrize('progressive', [False, True])
def test_a_jpeg_cut_to_a_fifth_is_refused_by_every_reader(tmp_path, progressive):
    whole = encode(Image.fromarray(smooth(370, 530)), 'JPEG', progressive=progressive)
    (tmp_path / 'a.jpg').write_bytes(whole[: len(whole) // 5] + b'\xff\xd9')
    assert all('a.jpg: ' in attempt(reader, tmp_path / 'a.jpg') for reader in (read_image, check_and_read))


def png(width, height, *chunks):
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    chunks = [(b'IHDR', header), *chunks, (b'IDAT', zlib.compress(bytes(100))), (b'IEND', b'')]
    parts = [struct.pack('>I', len(c)) + name + c + struct.pack('>I', zlib.crc32(name + c)) for name, c in chunks]
    return b'\x89PNG\r\n\x1a\n' + b''.join(parts)


def tiff(side, tile):
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 134, 325: 17}
    entries = b''.join(struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags.items())
    return b'II*\0\x08\0\0\0' + struct.pack('<H', len(tags)) + entries + bytes(4) + zlib.compress(bytes(1000))


def gif(side, disposal):
    size = struct.pack('<HH', side, side)
    return b'GIF89a%b\x80\0\0%b!\xf9\x04%c\0\0\0\0,\0\0\0\0%b\0\x02\x02D\x01\0;' % (size, bytes(6), disposal << 2, size)


def jpeg(side, scans=1):
    content = encode(Image.new('L', (3000, 3000), 9), 'JPEG', progressive=True)
    frame, last = content.index(b'\xff\xc2') + 5, content.rindex(b'\xff\xda')
    head = content[:frame] + struct.pack('>HH', side, side) + content[frame + 4 : last]
    return head + content[last:-2] * scans + b'\xff\xd9'


BOMBS = {
    'PNG of 900 million pixels': lambda: png(30_000, 30_000),
    'PNG of 1 x 80,000,000': lambda: png(1, 80_000_000),
    'PNG with a text of 100 MB': lambda: png(8, 8, (b'zTXt', b'a\0\0' + zlib.compress(bytes(10**8)))),
    'progressive JPEG of 120 scans': lambda: jpeg(3000, 120),
    'progressive JPEG of 144 million pixels, 20 times': lambda: jpeg(12_000, 20),
    'JPEG of 65,500 x 65,500': lambda: jpeg(65_500),
    'GIF of 65,535 x 65,535': lambda: gif(65_535, 0),
    'GIF that is filled when it is opened': lambda: gif(40_000, 2),
    'TIFF with a tile of 1.6 billion pixels': lambda: tiff(16, 40_000),
    'TIFF of 60,000 x 60,000': lambda: tiff(60_000, 512),
}


def measure(path):
    """Return messages of the readers, CPU seconds of the slowest, and MB of all."""
    before, times, messages = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, [time.process_time()], []
    for reader in (read_image, read_mask, check_and_read, check):
        messages.append(attempt(reader, path))
        times.append(time.process_time())
    return messages, max(np.diff(times)), (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


@pytest.mark.parametrize('bomb', BOMBS)
def test_bombs_are_refused_at_once(tmp_path, bomb):
    path = tmp_path / 'bomb'
    path.write_bytes(BOMBS[bomb]())
    Image.init()  # loads all formats
    with get_context('fork').Pool(1) as pool:
        messages, seconds, megabytes = pool.apply(measure, [path])
    print(f'{path.stat().st_size} bytes, {seconds:.3f} s, {megabytes:.0f} MB: {messages[0].partition(": ")[2]}')
    scans = 'progressive' in bomb  # of which the header says nothing
    assert all(isinstance(message, str) for message in messages[: 3 if scans else 4])
    assert seconds < 0.1
    assert megabytes < 50


@pytest.mark.parametrize('kind', ['JPEG2000', 'AVIF', 'ICO', 'EPS', 'TGA', 'PCX', 'SGI', 'DDS', 'ICNS'])
def test_other_formats_are_refused_whatever_their_name(tmp_path, kind):
    path = tmp_path / 'a.png'
    path.write_bytes(encode(Image.fromarray(smooth()).resize((64, 64)), kind))
    for reader in (read_image, read_mask, check_and_read, check):
        assert 'no image of BMP, GIF' in attempt(reader, path)
