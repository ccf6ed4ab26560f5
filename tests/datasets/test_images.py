"""Contract: an image file is read whole, upright and in true colours, or an error names it."""

import io
import zlib

import mmcv
import numpy as np
import pytest
from PIL import Image

from randsac_mm.datasets import LoadImageStrict, UnreadableImageError, find_fault, read_image

RED, WHITE = (255, 0, 0), (255, 255, 255)


@pytest.fixture
def put(tmp_path):
    """Return a function that writes bytes into a file."""

    def write(name: str, content: bytes):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def smooth(height: int = 37, width: int = 53) -> np.ndarray:
    """A picture (H, W, 3) that JPEG keeps well, without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * y, 3 * x, 2 * (x + y)], -1).astype(np.uint8)


def encode(array: np.ndarray, kind: str = 'JPEG', **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'PPM', 'TIFF'])
def test_lossless_kinds_are_read_exactly(put, kind):
    path = put('a', encode(smooth(), kind))
    np.testing.assert_array_equal(read_image(path), smooth())
    assert find_fault(path) is None


@pytest.mark.parametrize('orientation', range(1, 9))
def test_jpeg_and_its_orientation_agree_with_cv2(put, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put('a.jpg', encode(smooth(), exif=exif, quality=95))
    ours, theirs = LoadImageStrict().transform({'img_path': path}), mmcv.imread(str(path))
    assert ours['img_shape'] == ours['ori_shape'] == ((37, 53) if orientation < 5 else (53, 37))
    assert ours['img'].dtype == np.uint8
    assert ours['img'].flags.writeable
    assert np.abs(ours['img'].astype(int) - theirs).max() <= 3  # two JPEG decoders


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
@pytest.mark.parametrize('block', [b'no tiff header', b'II*\0\xff\xff\xff\x7f', b'II*\0\x08\0\0\0\x01\0\x12\x01\x02'])
def test_damaged_exif_block_does_not_cost_the_picture(put, block, monkeypatch):
    assert read_image(put('a.jpg', encode(smooth(), exif=b'Exif\0\0' + block))).shape == (37, 53, 3)
    monkeypatch.delattr(Image.Image, 'getexif')  # which blocks make Pillow raise depends on its version
    np.testing.assert_array_equal(read_image(put('a.bmp', encode(smooth(), 'BMP'))), smooth())


def test_16_bit_grey_keeps_its_upper_byte(put, tmp_path):
    values = np.arange(0, 65536, 31, dtype=np.uint16)[:2000].reshape(40, 50)
    for name in ('a.png', 'a.tif'):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.repeat((values >> 8)[..., None], 3, -1))
    pgm = put('a.pgm', b'P5 3 1 65535\n' + np.array([[0, 256, 65535]], dtype='>u2').tobytes())
    np.testing.assert_array_equal(read_image(pgm)[0, :, 0], [0, 1, 255])


def test_palette_cmyk_grey_and_bilevel(tmp_path):
    red = Image.new('RGB', (5, 3), RED)
    red.quantize(4).save(tmp_path / 'palette.png')
    red.convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=100)
    red.save(tmp_path / 'animation.gif', save_all=True, append_images=[Image.new('RGB', (5, 3), WHITE)])
    for name in ('palette.png', 'cmyk.jpg', 'animation.gif'):  # of the animation the first frame
        np.testing.assert_allclose(read_image(tmp_path / name), np.full((3, 5, 3), RED), atol=3)
    for mode in ('L', '1'):
        Image.new(mode, (5, 3), 255).save(tmp_path / 'white.png')
        assert (read_image(tmp_path / 'white.png') == 255).all()


def test_transparent_pixels_are_white(tmp_path):
    image = Image.new('RGBA', (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / 'rgba.png')
    palette = Image.new('P', (2, 1))
    palette.putpalette([*RED, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / 'palette.png', transparency=1)
    for name in ('rgba.png', 'palette.png'):
        np.testing.assert_array_equal(read_image(tmp_path / name), [[RED, WHITE]])


def test_colour_type(put):
    path = put('a.png', encode(smooth()[..., 0], 'PNG'))
    image = LoadImageStrict(color_type='grayscale').transform({'img_path': path})['img']
    np.testing.assert_array_equal(image, smooth()[..., 0])
    with pytest.raises(ValueError, match='color_type'):
        LoadImageStrict(color_type='bgr')


@pytest.mark.parametrize(
    ('name', 'reason'),
    [
        ('empty.jpg', 'empty'),
        ('text.jpg', 'no image'),
        ('ends.jpg', 'no image'),
        ('float.tif', 'floating-point'),
        ('missing.jpg', 'not exist'),
        ('', 'Is a directory'),
    ],
)
def test_what_is_no_image(put, tmp_path, name, reason):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / 'float.tif')
    for file, content in (('empty.jpg', b''), ('text.jpg', b'some text'), ('ends.jpg', b'\xff\xd8\xff\xd9')):
        put(file, content)
    fault = find_fault(tmp_path / name)
    assert reason in fault
    with pytest.raises(UnreadableImageError) as error:
        read_image(tmp_path / name)
    assert str(error.value) == f'{tmp_path / name}: {fault}'


@pytest.mark.parametrize('kind', ['JPEG', 'progressive JPEG', 'PNG', 'GIF', 'BMP', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('kept', [0.02, 0.5, 0.99])
def test_truncated_files(put, kind, kept):
    noise = np.random.randint(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(noise, kind.split()[-1], **({'progressive': True} if ' ' in kind else {}))
    assert find_fault(put('a', whole)) is None
    path = put('b', whole[: int(kept * len(whole))])
    assert find_fault(path)
    with pytest.raises(UnreadableImageError, match=r"b: .*check='decode'"):
        LoadImageStrict().transform({'img_path': path})


def test_bytes_after_the_end_do_no_harm(put):  # cameras append thumbnails and films
    path = put('a.jpg', encode(smooth()) + bytes(1000))
    assert find_fault(path) is None
    assert read_image(path).shape == (37, 53, 3)


def test_decompression_bomb_costs_no_memory(put):
    whole = bytearray(encode(np.zeros((1, 1), np.uint8), 'PNG'))
    whole[16:24] = (30_000).to_bytes(4, 'big') * 2
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, 'big')
    path = put('bomb.png', whole)
    assert 'pixels' in find_fault(path)
    with pytest.raises(UnreadableImageError, match=r'bomb\.png: .*900000000 pixels'):
        read_image(path)
