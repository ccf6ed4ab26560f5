"""Contract: an image file is read whole, upright and in true colours, or an error names it."""

import io
import struct

import mmcv
import numpy as np
import pytest
from datasets.image_files import exif, png, smooth
from hypothesis import given
from hypothesis import strategies as st
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
    path = put('a.jpg', encode(smooth(), exif=exif(orientation), quality=95))
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


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    pixels = pixels.swapaxes(0, 1) if orientation > 4 else pixels
    pixels = pixels[:, ::-1] if orientation in (2, 3, 6, 7) else pixels
    return pixels[::-1] if orientation in (3, 4, 7, 8) else pixels


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['WEBP', 'PNG', 'TIFF', 'zipped TIFF'])
def test_every_kind_is_turned_exactly_once(put, kind, orientation):
    options = {'WEBP': {'lossless': True}, 'zipped TIFF': {'compression': 'tiff_adobe_deflate'}}.get(kind, {})
    grey = smooth()[..., 1]
    for pixels in (
        smooth(),
        grey,
        *([] if kind == 'WEBP' else [grey * np.uint16(256), grey * np.dtype('>u2').type(256)]),
    ):
        path = put('a', encode(pixels, kind.split()[-1], exif=exif(orientation), **options))
        upright = smooth() if pixels.ndim == 3 else smooth()[..., [1, 1, 1]]
        np.testing.assert_array_equal(read_image(path), turn(upright, orientation))


@given(st.integers(1, 31), st.sampled_from(['<u2', '>u2', 'i4']))
def test_of_the_bits_that_a_file_uses_the_upper_8_are_taken(tmp_path_factory, bits, dtype):
    top = 2 ** (min(bits, 16) if '2' in dtype else bits) - 1
    values = np.array([[0, top // 2, top]], dtype)
    path = tmp_path_factory.mktemp('bits') / 'a.tif'
    Image.fromarray(values).save(path)
    used = next(n for n in (*range(8, 31, 2), 31) if top < 2**n)  # 8, 10, 12, 14, 16, ...
    np.testing.assert_array_equal(read_image(path)[0, :, 2], values[0] // 2 ** (used - 8))


@pytest.mark.parametrize(('color_type', 'channels'), [(0, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize('bits', [8, 12, 16])
def test_16_bit_png_of_any_kind(put, color_type, channels, bits):  # of colours Pillow keeps the upper byte
    values = np.random.randint(0, 2**bits, (5, 7, channels), np.uint16)
    values[0, 0, 0] = 2**bits - 1
    if channels == 2:
        values[..., 1] = 65535
    path = put('a.png', png(values, 16, color_type, eXIf=exif(6).tobytes().removeprefix(b'Exif\0\0')))
    grey_or_rgb = values if channels == 3 else values[..., [0, 0, 0]]
    np.testing.assert_array_equal(read_image(path), turn(grey_or_rgb >> (bits - 8), 6))


def test_pgm_of_16_bits_and_transparent_grey_of_16_bits(put):
    values = np.array([[0, 256, 65535]], dtype='>u2')
    assert read_image(put('a.pgm', b'P5 3 1 65535\n' + values.tobytes()))[0, :, 0].tolist() == [0, 1, 255]
    clear = png(values[..., None], 16, 0, tRNS=values[0, 1:2].tobytes())
    assert read_image(put('a.png', clear))[0, :, 0].tolist() == [0, 255, 255]
    colours = png(values[..., None].repeat(3, 2) // 16, 16, 2, tRNS=b'\0\x10' * 3)
    with pytest.raises(UnreadableImageError, match=r'a\.png: 16-bit colours'):
        read_image(put('a.png', colours))


@pytest.mark.parametrize(('lab', 'rgb'), [((128, 0, 0), (119, 119, 119)), ((138, 81, 70), (255, 0, 0))])
def test_lab(tmp_path, lab, rgb):
    Image.frombytes('LAB', (1, 1), bytes(lab)).save(tmp_path / 'a.tif')
    np.testing.assert_allclose(read_image(tmp_path / 'a.tif')[0, 0], rgb, atol=5)


def test_values_without_an_agreed_range_are_refused(tmp_path):
    path = tmp_path / 'a.tif'
    Image.fromarray(np.array([[-7, 2]], np.int32)).save(path)
    with pytest.raises(UnreadableImageError, match=r'a\.tif: .*-7'):
        read_image(path)
    Image.fromarray(np.array([[255, 2]], np.uint8)).save(path, tiffinfo={339: 2})  # two's complement
    assert 'signed' in find_fault(path)
    Image.fromarray(np.array([[255, 2]], np.uint16)).save(path)
    path.write_bytes(path.read_bytes().replace(*(struct.pack('<HHIH', 262, 3, 1, kind) for kind in (1, 0))))
    assert '0 for white' in find_fault(path)
    with pytest.raises(UnreadableImageError, match='0 for white'):
        read_image(path)


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
    image.convert('RGB').save(tmp_path / 'rgb.png', transparency=(0, 0, 0))
    for name in ('rgba.png', 'palette.png', 'rgb.png'):
        np.testing.assert_array_equal(read_image(tmp_path / name), [[RED, WHITE]])
    for kind in ('LA', 'L'):
        grey = Image.fromarray(np.array([[[9, 255], [9, 0], [90, 51]]], np.uint8), 'LA').convert(kind)
        grey.save(tmp_path / 'grey.png', **({} if kind == 'LA' else {'transparency': 90}))
        assert read_image(tmp_path / 'grey.png')[0, :, 2].tolist() == ([9, 255, 222] if kind == 'LA' else [9, 9, 255])


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
