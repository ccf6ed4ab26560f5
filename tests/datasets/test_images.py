"""Contract: an image file is read whole, upright and in true colours, or an error names it."""

import io
import zlib
from pathlib import Path

import mmcv
import numpy as np
import pytest
from PIL import Image

from randsac_mm.datasets import LoadImageStrict, UnreadableImageError, find_fault, read_image
from randsac_mm.datasets.images import check_max_pixels, printable

RED, WHITE = (255, 0, 0), (255, 255, 255)


def smooth(height: int = 37, width: int = 53) -> np.ndarray:
    """A picture (H, W, 3) that JPEG keeps well, without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * y, 3 * x, 2 * (x + y)], -1).astype(np.uint8)


def encode(array: np.ndarray, kind: str = 'JPEG', **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize('kind', ['PNG', 'BMP', 'PPM', 'TIFF'])
def test_lossless_kinds_are_read_exactly(tmp_path, kind):
    path = put(tmp_path, 'a', encode(smooth(), kind))
    np.testing.assert_array_equal(read_image(path), smooth())
    assert find_fault(path) is None


def test_jpeg_agrees_with_cv2(tmp_path):
    path = put(tmp_path, 'a.jpg', encode(smooth(), quality=90))
    ours = LoadImageStrict().transform({'img_path': path})
    theirs = mmcv.imread(str(path))
    assert ours['img'].dtype == np.uint8
    assert ours['img'].flags.writeable
    assert np.abs(ours['img'].astype(int) - theirs).max() <= 3  # two JPEG decoders
    assert ours['img_shape'] == ours['ori_shape'] == (37, 53)


@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_applied_as_cv2_does(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path, 'a.jpg', encode(smooth(), exif=exif, quality=95))
    ours, theirs = read_image(path), mmcv.imread(str(path), channel_order='rgb')
    assert ours.shape == ((37, 53, 3) if orientation < 5 else (53, 37, 3))
    assert np.abs(ours.astype(int) - theirs).max() <= 3


@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
@pytest.mark.parametrize(
    'block', [b'no tiff header', b'II*\0\xff\xff\xff\x7f', b'II*\0\x08\0\0\0\x01\0\x12\x01\x02\0\x01\0\0\0a']
)
def test_damaged_exif_block_does_not_cost_the_picture(tmp_path, block):
    path = put(tmp_path, 'a.jpg', encode(smooth(), exif=b'Exif\0\0' + block))
    assert read_image(path).shape == (37, 53, 3)


def test_exif_that_cannot_be_parsed_does_not_cost_the_picture(tmp_path, monkeypatch):
    """Which blocks make Pillow raise depends on its version."""

    def getexif(image):
        raise SyntaxError('not a TIFF file')

    monkeypatch.setattr(Image.Image, 'getexif', getexif)
    np.testing.assert_array_equal(read_image(put(tmp_path, 'a.bmp', encode(smooth(), 'BMP'))), smooth())


def test_16_bit_grey_keeps_its_upper_byte(tmp_path):
    values = np.arange(0, 65536, 31, dtype=np.uint16)[:2000].reshape(40, 50)
    for name in ('a.png', 'a.tif'):
        Image.fromarray(values).save(tmp_path / name)
        np.testing.assert_array_equal(read_image(tmp_path / name), np.repeat((values >> 8)[..., None], 3, -1))


def test_16_bit_pgm(tmp_path):
    values = np.array([[0, 256, 65535]], dtype='>u2')
    path = put(tmp_path, 'a.pgm', b'P5 3 1 65535\n' + values.tobytes())
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 255])


def test_palette_cmyk_grey_and_bilevel(tmp_path):
    red = Image.new('RGB', (5, 3), RED)
    red.quantize(4).save(tmp_path / 'palette.png')
    red.convert('CMYK').save(tmp_path / 'cmyk.jpg', quality=100)
    red.quantize(4).save(tmp_path / 'palette.gif')
    for name in ('palette.png', 'cmyk.jpg', 'palette.gif'):
        image = read_image(tmp_path / name)
        assert image.shape == (3, 5, 3)
        assert np.abs(image.astype(int) - RED).max() <= 3, name
    for mode in ('L', '1'):
        Image.new(mode, (5, 3), 255).save(tmp_path / 'white.png')
        assert (read_image(tmp_path / 'white.png') == 255).all()


def test_transparent_pixels_are_white(tmp_path):
    image = Image.new('RGBA', (2, 1), (*RED, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    image.save(tmp_path / 'rgba.png')
    np.testing.assert_array_equal(read_image(tmp_path / 'rgba.png'), [[RED, WHITE]])
    palette = Image.new('P', (2, 1))
    palette.putpalette([*RED, 0, 0, 0])
    palette.putpixel((1, 0), 1)
    palette.save(tmp_path / 'palette.png', transparency=1)
    np.testing.assert_array_equal(read_image(tmp_path / 'palette.png'), [[RED, WHITE]])


def test_animation_gives_its_first_frame(tmp_path):
    first, second = Image.new('RGB', (4, 4), RED), Image.new('RGB', (4, 4), WHITE)
    first.save(tmp_path / 'a.gif', save_all=True, append_images=[second])
    assert (read_image(tmp_path / 'a.gif') == RED).all()


def test_grayscale(tmp_path):
    path = put(tmp_path, 'a.png', encode(smooth()[..., 0], 'PNG'))
    image = LoadImageStrict(color_type='grayscale').transform({'img_path': path})['img']
    np.testing.assert_array_equal(image, smooth()[..., 0])


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'', r'empty \(0 bytes\)'),
        (b'some text, renamed', 'no image that Pillow can read'),
        (b'\xff\xd8\xff\xd9', 'no image that Pillow can read'),
    ],
)
def test_what_is_no_image(tmp_path, content, reason):
    path = put(tmp_path, 'a.jpg', content)
    with pytest.raises(UnreadableImageError, match=f'a.jpg: {reason}'):
        read_image(path)
    fault = find_fault(path)
    assert fault is not None
    assert reason.replace('\\', '') == fault


@pytest.mark.parametrize('kind', ['JPEG', 'progressive JPEG', 'PNG', 'GIF', 'BMP', 'TIFF', 'WEBP'])
@pytest.mark.parametrize('kept', [0.02, 0.5, 0.99])
def test_truncated_files(tmp_path, kind, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(noise, kind.split()[-1], **({'progressive': True} if ' ' in kind else {}))
    path = put(tmp_path, 'a', whole)
    assert find_fault(path) is None
    path = put(tmp_path, 'b', whole[: int(kept * len(whole))])
    assert find_fault(path)
    with pytest.raises(UnreadableImageError, match='b: '):
        read_image(path)


def test_bytes_after_the_end_do_no_harm(tmp_path):
    """Cameras append thumbnails and films."""
    path = put(tmp_path, 'a.jpg', encode(smooth()) + bytes(1000))
    assert find_fault(path) is None
    assert read_image(path).shape == (37, 53, 3)


def test_damage_in_the_middle_is_found_by_decoding(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = encode(noise, 'PNG')
    half = len(whole) // 2
    path = put(tmp_path, 'a.png', whole[:half] + bytes(b ^ 255 for b in whole[half : half + 50]) + whole[half + 50 :])
    assert find_fault(path) is None
    assert find_fault(path, decode=True)
    with pytest.raises(UnreadableImageError, match=r'a\.png'):
        read_image(path)


def test_too_many_pixels(tmp_path):
    path = put(tmp_path, 'a.png', encode(smooth(), 'PNG'))
    assert find_fault(path, max_pixels=37 * 53) is None
    assert find_fault(path, max_pixels=37 * 53 - 1) == '53 x 37 pixels are more than max_pixels=1960'
    with pytest.raises(UnreadableImageError, match=r'a\.png: 53 x 37 pixels are more than max_pixels=1960'):
        read_image(path, max_pixels=1960)


def test_decompression_bomb_costs_no_memory(tmp_path):
    """A PNG header that promises 900 million pixels; neither call may try to hold them."""
    whole = bytearray(encode(np.zeros((1, 1), np.uint8), 'PNG'))
    whole[16:24] = (30_000).to_bytes(4, 'big') * 2
    whole[29:33] = zlib.crc32(whole[12:29]).to_bytes(4, 'big')
    path = put(tmp_path, 'bomb.png', bytes(whole))
    assert 'pixels' in find_fault(path)
    with pytest.raises(UnreadableImageError, match=r'bomb\.png: .*900000000 pixels'):
        read_image(path)


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / 'a.tif')
    assert 'floating-point' in find_fault(tmp_path / 'a.tif')
    with pytest.raises(UnreadableImageError, match='floating-point pixels have no agreed range'):
        read_image(tmp_path / 'a.tif')


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UnreadableImageError, match='does not exist'):
        read_image(tmp_path / 'no.jpg')
    with pytest.raises(UnreadableImageError, match='Is a directory'):
        read_image(tmp_path)


def test_names_that_are_no_utf8_can_be_printed():
    assert printable('gr\u00fcn.jpg') == 'gr\u00fcn.jpg'
    assert printable('\udcff.jpg').isascii()


def test_loader_says_how_to_find_all_bad_files(tmp_path):
    path = put(tmp_path, 'a.jpg', encode(smooth())[:-200])
    with pytest.raises(UnreadableImageError, match=r"a\.jpg: .*[Tt]runcated.*check='decode'"):
        LoadImageStrict().transform({'img_path': path})


def test_arguments():
    with pytest.raises(ValueError, match="color_type='bgr' must be 'color' or 'grayscale'"):
        LoadImageStrict(color_type='bgr')
    with pytest.raises(ValueError, match='max_pixels=0 must be between 1 and'):
        LoadImageStrict(max_pixels=0)
    with pytest.raises(ValueError, match=r'max_pixels=1000000000 .*MAX_IMAGE_PIXELS'):
        check_max_pixels(10**9)
    assert repr(LoadImageStrict(max_pixels=5)) == "LoadImageStrict(color_type='color', max_pixels=5)"
