"""A folder of images without labels."""

import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from PIL import Image

from randsac_mm.files import atomic_write
from randsac_mm.registry import register

from .images import IMG_EXTENSIONS, MAX_PIXELS, check_max_pixels, find_fault, printable, walk_files

_NAMED = 10  # files of a kind that the log names
_CHECK_THREADS = 8  # more than cores, for network file systems
_PROGRESS_SECONDS = 30


@register('DATASETS')
class UnlabelledImageFolder(BaseDataset):
    """Every readable image below a folder, of any nesting.

    Files are sorted by path. Hidden files and folders (``.name``) are skipped, links are followed, a folder that is
    reached twice is read once. A file that cannot be used is named in the log (the first ten of a kind; all of them in
    ``report``) and skipped. No sample is ever replaced by another: a file that fails later, in training, is an error
    with its name. (mmengine's own datasets take a random other sample whenever a pipeline returns None.)

    Args:
        data_root: The folder. It must be on a local or mounted file system.
        pipeline: Transforms, or their configs, applied to ``dict(img_path=..., sample_idx=...)``. Begin with
            ``dict(type='LoadImageStrict')``.
        check: How to check each file at the start.
            ``'header'``: read type and size, and the mark at the end, 0.1 to 0.2 ms a file. Files without such a mark
            (truncated, or neither JPEG nor PNG) are decoded.
            ``'decode'``: decode every file, some milliseconds each. This finds all that cannot be read.
            ``'none'``: open no file; for a folder known to be sound.
        max_pixels: Largest height times width of an image. A small file can decode to gigabytes.
        report: A text file to write, with a line for every skipped file: reason, tab, path.
        **kwargs: Further arguments of mmengine's ``BaseDataset``: ``indices``, ``serialize_data``, ``lazy_init``.

    Raises:
        FileNotFoundError: If ``data_root`` is not a folder, or contains no readable image.
        ValueError: If an argument is out of range.

    Example:
        In a config::

            dataset=dict(type='UnlabelledImageFolder', data_root='/my/photos', pipeline=[
                dict(type='LoadImageStrict'),
                dict(type='RandomResizedCrop', scale=192, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'),
                dict(type='RandomFlip', prob=0.5),
                dict(type='PackInputs'),
            ])
    """

    def __init__(
        self,
        data_root: str,
        pipeline: Sequence = (),
        check: str = 'header',
        max_pixels: int = MAX_PIXELS,
        report: str | None = None,
        **kwargs: Any,
    ) -> None:
        if check not in ('header', 'decode', 'none'):
            raise ValueError(f"check={check!r} must be 'header', 'decode' or 'none'")
        self.check = check
        self.max_pixels = check_max_pixels(max_pixels)
        self.report = report
        super().__init__(ann_file='', data_root=os.path.expanduser(data_root), pipeline=pipeline, **kwargs)

    def __getitem__(self, idx: int) -> dict:
        """Return the image at ``idx`` after the pipeline, and never another one.

        Raises:
            ValueError: If the pipeline returns None.
        """
        if not self._fully_initialized:
            self.full_init()
        data = self.prepare_data(idx)
        if data is None:
            raise ValueError(f'the pipeline returned None for {printable(self.get_data_info(idx)["img_path"])}')
        return data

    def load_data_list(self) -> list[dict]:
        """Find and check the images."""
        if not os.path.isdir(self.data_root):
            raise FileNotFoundError(f'data_root={self.data_root!r} is not a folder: set it to that of your images')
        faults: list[tuple[str, str]] = []  # path, reason

        def note(error: OSError) -> None:
            faults.append((os.path.relpath(error.filename, self.data_root), error.strerror))

        files = sorted(walk_files(self.data_root, note))
        found = [path for path in files if path.lower().endswith(IMG_EXTENSIONS)]
        others = sorted(set(files) - set(found))
        if self.check != 'none':
            reasons = self._check(found)
            faults += [(path, reason) for path, reason in zip(found, reasons, strict=True) if reason]
            found = [path for path, reason in zip(found, reasons, strict=True) if not reason]
        self._log(len(found), faults, others)
        if not found:
            raise FileNotFoundError(
                f'data_root={self.data_root!r} contains no readable image, but {len(faults)} unreadable files and '
                f'{len(others)} of other types ({_count_types(others)}); images end in {", ".join(IMG_EXTENSIONS)}'
            )
        return [{'img_path': os.path.join(self.data_root, path)} for path in found]

    def extra_repr(self) -> list[str]:
        """Describe the folder."""
        return [f'Folder of images: \t{self.data_root}', f'Check: \t{self.check}']

    def _check(self, paths: list[str]) -> list[str | None]:
        """Return what is wrong with each file, or None."""
        find = partial(find_fault, max_pixels=self.max_pixels, decode=self.check == 'decode')
        reasons: list[str | None] = []
        logged = time.monotonic()
        with ThreadPool(_CHECK_THREADS) as pool, warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # max_pixels decides
            for reason in pool.imap(find, (os.path.join(self.data_root, path) for path in paths), chunksize=32):
                reasons.append(reason)
                if time.monotonic() - logged > _PROGRESS_SECONDS:
                    logged = time.monotonic()
                    print_log(f'{self.data_root}: checked {len(reasons):,} of {len(paths):,} files', 'current')
        return reasons

    def _log(self, count: int, faults: list[tuple[str, str]], others: list[str]) -> None:
        """Log what was found and what is skipped, and write the report."""
        skipped = [*faults, *((path, 'other type') for path in others)]
        lines = [f'{self.data_root}: {count:,} images, {len(skipped):,} files skipped']
        for kind, files in (
            ('unreadable', [f'{printable(path)}: {reason}' for path, reason in faults]),
            (f'of other types ({_count_types(others)})', [printable(path) for path in others]),
        ):
            if files:
                lines.append(f'  {len(files):,} {kind}:')
                lines += [f'    {file}' for file in files[:_NAMED]]
            if len(files) > _NAMED:
                where = f'see {self.report}' if self.report else "set report='skipped.txt' to list all"
                lines.append(f'    and {len(files) - _NAMED:,} more, {where}')
        print_log('\n'.join(lines), 'current', logging.WARNING if skipped else logging.INFO)
        if self.report and is_main_process():
            with atomic_write(self.report) as path:
                text = ''.join(f'{reason}\t{printable(name)}\n' for name, reason in skipped)
                path.write_text(text, encoding='utf-8')


def _count_types(paths: Iterable[str]) -> str:
    """Count paths by ending, such as ``.txt 3, .json 1``."""
    counts = Counter(os.path.splitext(path)[1].lower() or 'no ending' for path in paths)
    return ', '.join(f'{printable(ending)} {count:,}' for ending, count in counts.most_common(5)) or 'none'
