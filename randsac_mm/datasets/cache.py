"""A data set of images that is decoded only once."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from randsac_mm.registry import register

from .images import UnreadableImageError, log_progress, printable
from .pixel_store import DamagedError, PixelStore, open_or_build

_CHUNK = 1024  # decoded images that may wait to be written
_SAMPLE = 16  # files that are compared with their images
_TOLERANCE = 24  # of 255; versions of libjpeg differ by less
_STAT_THREADS = 8  # for network file systems


@register('DATASETS')
class CachedImages:
    """Images of another data set, decoded once into a file of smaller pixels that is made on first use.

    The shorter side of every image is reduced to ``short_side`` (antialiased, never enlarged) and its pixels stored,
    uint8, in one memory-mapped file for all processes: about 0.26 MB an image for 256 px, 335 GB for ImageNet-1K. The
    rest of the pipeline is unchanged. Small crops are enlarged from fewer pixels than the file had: for exact
    comparisons with published runs read the files themselves.

    A cache belongs to the names, order, sizes and dates of its files and to the loading transform: if any of that
    changes another cache is made. One that is damaged, or whose images are not those of 16 of its files, is made anew.
    A process verifies the checksum of an image when it first reads it; if it is wrong, the file is read instead.

    Args:
        pipeline: Transforms, the first of which loads the image: ``LoadImageStrict`` or ``LoadImageFromFile``.
        source: Type of the data set to read, whose samples have ``img_path``.
        short_side: Length of the shorter side of a stored image, in pixels.
        cache_dir: Folder for caches, best on a local disk. Every run with the same data set finds its cache here.
        **kwargs: Arguments of the data set, such as ``data_root``.

    Raises:
        ValueError: If ``short_side`` or the first transform is not usable.
        OSError: If the disk is full, the cache cannot be written, or a file is missing.
        UnreadableImageError: If a file cannot be decoded; the message names it.

    Example:
        In a config, with the other settings of the data set unchanged::

            train_dataloader = dict(dataset=dict(type='CachedImages', source='ImageNet', data_root='data/imagenet'))
    """

    def __init__(
        self,
        pipeline: Sequence,
        source: str = 'UnlabelledImageFolder',
        short_side: int = 256,
        cache_dir: str = 'data/cache',
        **kwargs: Any,
    ) -> None:
        if short_side < 1:
            raise ValueError(f'short_side={short_side!r} must be a positive number of pixels')
        first, *rest = pipeline
        self._load = TRANSFORMS.build(first) if isinstance(first, dict) else first
        self._short_side = short_side
        stored = _LoadStored(self._decode)
        self.dataset = MMPRETRAIN_DATASETS.build(dict(type=source, pipeline=[stored, *rest], **kwargs))
        stored.store = self.store = self._open(Path(cache_dir).expanduser())
        self.folder = self.store.folder
        self.metainfo = self.dataset.metainfo

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index]

    def full_init(self) -> None:
        """Do nothing: mmengine's wrappers call it."""

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the classes of a sample."""
        return self.dataset.get_cat_ids(index)

    def verify(self) -> int:
        """Verify all images; return how many are damaged. If there are any, the next start makes the cache anew."""
        numbers = log_progress(range(len(self)), f'{self.folder}: images verified', len(self))
        return sum(not self.store.verify(number) for number in numbers)

    def _open(self, cache_dir: Path) -> PixelStore:
        """Open the cache of the images, or make it."""
        paths = [self.dataset.get_data_info(index).get('img_path') for index in range(len(self.dataset))]
        if None in paths:
            raise ValueError(f'{type(self.dataset).__name__} has no img_path: use it without CachedImages')
        root = os.path.abspath(getattr(self.dataset, 'data_root', None) or os.path.commonpath(paths))
        key = fingerprint(paths, root, f'{self._load!r} {self._short_side}')
        folder = cache_dir / f'{os.path.basename(root)}-{self._short_side}px-{key}'
        return open_or_build(folder, lambda: self._decode_all(paths, folder), lambda store: self._compare(store, paths))

    def _compare(self, store: PixelStore, paths: list[str]) -> PixelStore:
        """Return the store; raise DamagedError if a sample of its images is not that of the files."""
        sample = sorted({*np.linspace(0, len(paths) - 1, _SAMPLE).astype(int).tolist()})
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(self._decode, [paths[number] for number in sample])
            for number, (image, original) in zip(sample, decoded, strict=True):
                stored = store.image(number)
                same = stored.shape == image.shape and store.original_shape(number) == original
                if not same or np.abs(stored.astype(np.int16) - image).max() > _TOLERANCE:
                    raise DamagedError(f'{store.folder}: {printable(paths[number])} has changed, in spite of its date')
        return store

    def _decode_all(self, paths: list[str], folder: Path) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        """Decode and reduce all images in order, by threads."""
        with ThreadPoolExecutor() as pool:
            chunks = (paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK))
            images = (image for chunk in chunks for image in pool.map(self._decode, chunk))
            yield from log_progress(images, f'{folder}: images decoded, once', len(paths))

    def _decode(self, path: str) -> tuple[np.ndarray, tuple[int, int]]:
        try:
            image = self._load({'img_path': path})['img']
        except UnreadableImageError:
            raise
        except Exception as error:  # what a decoder raises need not name the file
            raise UnreadableImageError(f'{printable(path)}: {error or type(error).__name__}') from error
        if image.dtype != np.uint8:
            raise ValueError(f'{self._load!r} loads {image.dtype}, but only uint8 is stored: set to_float32=False')
        return reduce_image(image, self._short_side), image.shape[:2]


class _LoadStored:
    """The loading transform's substitute in a pipeline."""

    store: PixelStore

    def __init__(self, decode: Callable[[str], tuple[np.ndarray, tuple[int, int]]]) -> None:
        self.decode = decode

    def __call__(self, results: dict) -> dict:
        number = results['sample_idx']
        if self.store.verify(number):
            results['img'] = self.store.image(number)
        else:
            results['img'] = self.decode(results['img_path'])[0]
        results['img_shape'] = results['img'].shape[:2]
        results['ori_shape'] = self.store.original_shape(number)
        return results


def reduce_image(image: np.ndarray, short_side: int) -> np.ndarray:
    """Reduce an image (H, W) or (H, W, 3), uint8, antialiased, until its shorter side has ``short_side`` pixels."""
    height, width = image.shape[:2]
    scale = short_side / min(height, width)
    if scale >= 1:
        return image
    size = round(width * scale), round(height * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))


def fingerprint(paths: Sequence[str], root: str, recipe: str) -> str:
    """Return 16 hexadecimal digits that identify files, by names below ``root``, sizes and dates, and a recipe."""

    def describe(path: str) -> bytes:
        found = os.stat(path)
        return os.fsencode(f'{os.path.relpath(path, root)}\0{found.st_size}\0{found.st_mtime_ns}\0')

    digest = hashlib.sha256(f'1 {recipe} {len(paths)}\0'.encode())
    with ThreadPool(_STAT_THREADS) as pool:
        for entry in pool.imap(describe, paths, chunksize=1024):
            digest.update(entry)
    return digest.hexdigest()[:16]
