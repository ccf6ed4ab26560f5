"""A folder of images that is decoded only once."""

import hashlib
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.logging import print_log
from mmpretrain.registry import DATASETS as MMPRETRAIN_DATASETS
from mmpretrain.registry import TRANSFORMS
from PIL import Image

from randsac_mm.registry import register

from .images import UnreadableImageError, printable
from .pixel_store import INFO, VERSION, PixelStore, open_or_build

_PROGRESS_SECONDS = 30
_SAMPLE = 500  # files whose headers are read to estimate the size of a cache
_AHEAD = 4  # images per thread that may wait to be written
_STAT_THREADS = 8  # for network file systems


@register('DATASETS')
class CachedImages:
    """Read another data set's images from a file of decoded, smaller pixels that is made on first use.

    Decoding a photo takes most of a data loader's time. Here every image is decoded once, its shorter side reduced to
    ``short_side`` (antialiased, never enlarged) and its pixels stored, uint8, in one file. All workers and processes
    read from it through the memory of the system. The rest of the pipeline is unchanged.

    The pixels are not quite the same as without the cache: a crop is taken from the reduced image and resized once
    more. With ``short_side=256`` and crops of a fifth to all of the area for 192 or 224 px, small crops are enlarged
    from fewer pixels than the file had. For exact comparisons with published runs read the files themselves, or raise
    ``short_side``.

    It takes ``3 * short_side ** 2 * 4 / 3`` bytes an image: 0.26 MB for 256 px, 335 GB for ImageNet-1K. The cache knows
    which files, in which order, of which size and date it was made from, and by which loading transform. If any of that
    changes another cache is made and the old one is named in the log.

    Args:
        pipeline: Transforms, the first of which loads the image: ``LoadImageStrict`` or ``LoadImageFromFile``.
        source: Type of the data set to read, one that gives ``img_path``.
        short_side: Length of the shorter side of a stored image, in pixels.
        cache_dir: Folder for caches, best on a local disk. Every run with the same data set finds its cache here.
        cache_threads: Threads that decode while the cache is made; default: all cores of the machine.
        lazy_init: Whether to wait with reading the folder until the first use.
        **kwargs: Arguments of the data set, such as ``data_root``.

    Raises:
        ValueError: If an argument is out of range, the first transform does not load an image, or a cache is damaged.
        OSError: If the disk is too small.
        UnreadableImageError: If a file cannot be read; the message names it.

    Example:
        In a config, or on the command line, with the other settings of the data set unchanged::

            train_dataloader = dict(dataset=dict(type='CachedImages', data_root='/my/photos'))
            train_dataloader = dict(dataset=dict(type='CachedImages', source='ImageNet', data_root='data/imagenet'))
    """

    def __init__(
        self,
        pipeline: Sequence,
        source: str = 'UnlabelledImageFolder',
        short_side: int = 256,
        cache_dir: str = 'data/cache',
        cache_threads: int | None = None,
        lazy_init: bool = False,
        **kwargs: Any,
    ) -> None:
        if isinstance(short_side, bool) or not isinstance(short_side, int) or short_side < 1:
            raise ValueError(f'short_side={short_side!r} must be a positive number of pixels, as 256')
        if cache_threads is not None and cache_threads < 1:
            raise ValueError(f'cache_threads={cache_threads} must be at least 1')
        if not pipeline:
            raise ValueError('pipeline is empty: begin it with dict(type="LoadImageStrict")')
        self.short_side = short_side
        self.cache_dir = Path(cache_dir).expanduser()
        self.cache_threads = cache_threads or os.cpu_count() or 1
        first, *rest = pipeline
        self._load = TRANSFORMS.build(first) if isinstance(first, dict) else first
        self._read = _ReadStored()
        self.dataset = MMPRETRAIN_DATASETS.build(
            dict(type=source, pipeline=[self._read, *rest], lazy_init=True, **kwargs)
        )
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Give the meta information of the data set."""
        return self.dataset.metainfo

    @property
    def folder(self) -> Path:
        """Give the folder of the cache."""
        self.full_init()
        return self._read.store.folder

    def __len__(self) -> int:
        self.full_init()
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.full_init()
        return self.dataset[index]

    def full_init(self) -> None:
        """List the images, and open their cache or make it."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        paths = [self._path(index) for index in range(len(self.dataset))]
        root = os.path.abspath(getattr(self.dataset, 'data_root', None) or os.path.commonpath(paths))
        key = fingerprint(paths, root, f'{self._load!r} {self.short_side}')
        folder = self.cache_dir / f'{os.path.basename(root)}-{self.short_side}px-{key}'
        if not folder.exists():
            self._name_outdated(root)
        began = time.monotonic()
        self._read.store = open_or_build(
            folder,
            lambda: self._decode_all(paths, folder),
            {'data_root': root, 'short_side': self.short_side, 'loaded_by': repr(self._load)},
            lambda: print_log(f'{folder}: another process is making this cache, waiting for it', 'current'),
        )
        if time.monotonic() - began > 1:
            print_log(f'{folder}: ready after {time.monotonic() - began:.0f} s', 'current')
        self._fully_initialized = True

    def get_data_info(self, index: int) -> dict:
        """Give what the data set knows about a sample, without its pixels."""
        return self.dataset.get_data_info(index)

    def get_cat_ids(self, index: int) -> list[int]:
        """Give the classes of a sample."""
        return self.dataset.get_cat_ids(index)

    def _path(self, index: int) -> str:
        info = self.dataset.get_data_info(index)
        if 'img_path' not in info:
            raise ValueError(
                f'{type(self.dataset).__name__} gives no img_path, so its images are no files: use it without '
                'CachedImages'
            )
        return info['img_path']

    def _decode_all(self, paths: list[str], folder: Path) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        """Decode and reduce all images in order, by several threads that run at most a little ahead."""
        self._check_space(paths, folder)
        told = time.monotonic()
        pending: deque = deque()
        with ThreadPoolExecutor(self.cache_threads) as pool:
            try:
                for number, path in enumerate(paths):
                    pending.append(pool.submit(self._decode, path))
                    if len(pending) > _AHEAD * self.cache_threads:
                        yield pending.popleft().result()
                    if time.monotonic() - told > _PROGRESS_SECONDS:
                        told = time.monotonic()
                        print_log(f'{folder}: {number:,} of {len(paths):,} images are decoded', 'current')
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _decode(self, path: str) -> tuple[np.ndarray, tuple[int, int]]:
        try:
            image = self._load({'img_path': path})['img']
        except UnreadableImageError:
            raise
        except Exception as error:  # what a decoder raises need not name the file
            raise UnreadableImageError(f'{printable(path)}: {error or type(error).__name__}') from error
        if image.dtype != np.uint8:
            raise ValueError(f'{self._load!r} gives {image.dtype}, but only uint8 is stored: set to_float32=False')
        return reduce_image(image, self.short_side), image.shape[:2]

    def _check_space(self, paths: list[str], folder: Path) -> None:
        """Estimate the size of the cache from some of the images, and refuse to begin what cannot end well."""
        sample = paths[:: max(1, len(paths) // _SAMPLE)]
        needed = sum(map(self._stored_bytes, sample)) / len(sample) * len(paths)
        free = shutil.disk_usage(folder.parent).free
        text = f'{folder}: a cache of {len(paths):,} images needs about {needed / 1e9:.1f} GB'
        if needed > free:
            raise OSError(
                f'{text}, but only {free / 1e9:.1f} GB are free: choose another cache_dir, or a short_side below '
                f'{self.short_side}'
            )
        print_log(f'{text}; made once, by {self.cache_threads} threads', 'current')

    def _stored_bytes(self, path: str) -> int:
        try:
            with Image.open(path) as image:
                width, height = image.size
        except Exception:  # decoding will say what is wrong
            return 0
        height, width = _reduced_shape(height, width, self.short_side)
        return 3 * height * width

    def _name_outdated(self, root: str) -> None:
        """Tell about caches of the same folder that no longer fit it."""
        for info in self.cache_dir.glob(f'*/{INFO}'):
            with suppress(OSError, ValueError, KeyError):  # what cannot be read is not used either
                known = json.loads(info.read_text())
                if known['data_root'] == root:
                    print_log(
                        f'{info.parent} ({known["bytes"] / 1e9:.1f} GB) was made from other files of {root}, or '
                        'otherwise: it is not used, and can be removed unless another run needs it',
                        'current',
                    )


class _ReadStored:
    """Take the place of a pipeline's loading transform."""

    def __init__(self) -> None:
        self.store: PixelStore | None = None

    def __call__(self, results: dict) -> dict:
        number = results['sample_idx']
        results['img'] = self.store.image(number)
        results['img_shape'] = results['img'].shape[:2]
        results['ori_shape'] = self.store.original_shape(number)
        return results

    def __repr__(self) -> str:
        return f'ReadStored({self.store and str(self.store.folder)!r})'


def reduce_image(image: np.ndarray, short_side: int) -> np.ndarray:
    """Reduce an image, antialiased, so that its shorter side has ``short_side`` pixels; leave smaller ones alone.

    Args:
        image: Array (H, W) or (H, W, 3), uint8, channels in any order.
        short_side: Length in pixels.

    Returns:
        The array, or a smaller one of the same kind.
    """
    height, width = _reduced_shape(*image.shape[:2], short_side)
    if (height, width) == image.shape[:2]:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def fingerprint(paths: Sequence[str], root: str, recipe: str) -> str:
    """Identify the contents of files by their names, sizes and dates, without reading them.

    Args:
        paths: The files, in order.
        root: A folder; names count relative to it, so that moving all of it changes nothing.
        recipe: What is made from them.

    Returns:
        16 hexadecimal digits.

    Raises:
        UnreadableImageError: If a file is missing.
    """

    def line(path: str) -> bytes:
        try:
            found = os.stat(path)
        except OSError as error:
            raise UnreadableImageError(f'{printable(path)}: {error.strerror}') from error
        return os.fsencode(f'{os.path.relpath(path, root)}\0{found.st_size}\0{found.st_mtime_ns}\0')

    digest = hashlib.sha256(f'{VERSION} {recipe} {len(paths)}\0'.encode())
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        for start in range(0, len(paths), 1 << 16):  # not all futures at once
            for entry in pool.map(line, paths[start : start + (1 << 16)]):
                digest.update(entry)
    return digest.hexdigest()[:16]


def _reduced_shape(height: int, width: int, short_side: int) -> tuple[int, int]:
    scale = min(1.0, short_side / min(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))
