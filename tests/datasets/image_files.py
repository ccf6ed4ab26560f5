"""Image files that Pillow reads but does not write, and one of each kind that readers disagree about."""

import struct
import zlib

import numpy as np
from PIL import Image


def smooth(height=37, width=53):
    """A picture (H, W, 3) that JPEG keeps well, without any symmetry."""
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * y, 3 * x, 2 * (x + y)], -1).astype(np.uint8)


def png(values, bits, color_type, **chunks):
    """Return a PNG of values (H, W, C), ``color_type`` 0 grey, 2 RGB, 4 grey and alpha, with further chunks."""
    height, width = values.shape[:2]
    stored = np.unpackbits(values.astype('>u2').view(np.uint8).reshape(height, -1, 2), axis=2)[..., 16 - bits :]
    rows = b''.join(b'\0' + np.packbits(row).tobytes() for row in stored.reshape(height, -1))
    header = struct.pack('>IIBBBBB', width, height, bits, color_type, 0, 0, 0)
    content = b'\x89PNG\r\n\x1a\n'
    for name, data in {'IHDR': header, **chunks, 'IDAT': zlib.compress(rows), 'IEND': b''}.items():
        content += (
            struct.pack('>I', len(data)) + name.encode() + data + struct.pack('>I', zlib.crc32(name.encode() + data))
        )
    return content


def exif(orientation):
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def hostile(folder):
    """Write the files and return them."""
    image = Image.fromarray(smooth())
    clear = image.copy()
    clear.putalpha(Image.fromarray(smooth()[..., 0]))
    image.save(folder / 'turned.jpg', exif=exif(6))
    image.save(folder / 'turned.webp', exif=exif(6))
    Image.fromarray(smooth()[..., 1].astype(np.uint16) << 8).save(folder / 'turned16.tif', exif=exif(6))
    clear.save(folder / 'rgba.png')
    clear.convert('LA').save(folder / 'la.png')
    image.quantize(9).save(folder / 'palette.png', transparency=3)
    image.convert('CMYK').save(folder / 'cmyk.jpg')
    Image.frombytes('LAB', (53, 37), smooth().tobytes()).save(folder / 'lab.tif')
    (folder / '12bit.png').write_bytes(png(smooth()[..., :1].astype(np.uint16) * 23, 16, 0))
    (folder / '12bit_colours.png').write_bytes(png(smooth().astype(np.uint16) * 23, 16, 2))
    image.save(folder / 'UPPER.JPG', 'JPEG')
    return sorted(folder.iterdir())
