"""The rules of `randsac-mm pretrain`: tables by size and number of images. docs/recipes.md shows them."""

from typing import NamedTuple

from .look import Images

IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]  # mean and standard deviation, RGB, 0 .. 255


class Size(NamedTuple):
    """What is decided by the median of the images' shorter sides."""

    least: int  # px, of this row
    image: int  # side of a training image, px
    patch: int  # side of a patch, px
    partition: str  # of the grid of tokens
    hierarchy: tuple[int, ...]
    crop: float  # smallest area of a crop, as a fraction of the image


SIZES = (
    Size(1, 8, 2, 'SquarePartition', (16, 4), 0.5),
    Size(16, 16, 2, 'SquarePartition', (16, 4), 0.5),
    Size(24, 24, 3, 'SquarePartition', (16, 4), 0.5),
    Size(28, 28, 4, 'BlobPartition', (11, 5), 0.5),  # 7 x 7 tokens have no squares
    Size(32, 32, 4, 'SquarePartition', (16, 4), 0.2),
    Size(48, 48, 6, 'SquarePartition', (16, 4), 0.2),
    Size(64, 64, 8, 'SquarePartition', (16, 4), 0.2),
    Size(96, 96, 8, 'SquarePartition', (16, 4), 0.2),
    Size(160, 160, 16, 'BlobPartition', (16, 4), 0.2),
    Size(224, 224, 16, 'BlobPartition', (16, 4), 0.2),
    Size(1024, 224, 16, 'BlobPartition', (16, 4), 0.05),
)


class Count(NamedTuple):
    """What is decided by the number of images."""

    least: int  # images, of this row
    batch: int  # images in a step, but at most half of all
    epochs: int
    arch: str  # from 96 px; below that always ViT-T


COUNTS = (
    Count(2, 16, 1600, 'vit-t'),
    Count(500, 64, 1600, 'vit-s'),
    Count(10_000, 64, 800, 'vit-s'),
    Count(50_000, 256, 800, 'vit-b'),
    Count(1_000_000, 512, 400, 'vit-b'),
)


class Arch(NamedTuple):
    """What is decided by the model."""

    base: str  # config
    small_lr: float  # learning rate of 256 images below 96 px
    lr: float  # the same from 96 px


ARCHS = {
    'vit-t': Arch('randsac/vit-t_folder_small-images.py', 1e-3, 1e-3),
    'vit-s': Arch('randsac/vit-s_folder.py', 1e-3, 1.5e-4),
    'vit-b': Arch('randsac/vit-b_folder.py', 2e-4, 2e-4),
}
_SMALL = 96  # px


class Decision(NamedTuple):
    """What the rules decide for a folder."""

    size: Size
    arch: str
    tiny: bool  # the model of the digits instead of `arch`
    base: str
    channels: int
    measured: bool  # whether mean and deviation are the images' own, not ImageNet's
    norm_pix: bool
    flip: bool
    batch: int
    epochs: int
    lr: float  # of 256 images


def decide(images: Images, arch: str | None = None) -> Decision:
    """Apply the tables; ``arch`` is a key of ``ARCHS`` that replaces theirs."""
    size = next(row for row in reversed(SIZES) if images.median >= row.least)
    count = next(row for row in reversed(COUNTS) if images.count >= row.least)
    small = size.image < _SMALL
    name = arch or ('vit-t' if small else count.arch)
    return Decision(
        size=size,
        arch=name,
        tiny=arch is None and size.image <= 16,
        base=ARCHS[name].base,
        channels=1 if images.grey else 3,
        measured=images.grey or size.image < 64,
        norm_pix=size.patch > 2,  # four pixels have no shape to normalise
        flip=not (images.grey and size.image < 32),  # which may be characters
        batch=min(count.batch, images.count // 2),
        epochs=count.epochs,
        lr=ARCHS[name].small_lr if small else ARCHS[name].lr,
    )
