"""A folder of images without labels."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import Any

from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset

from randsac_mm.registry import register

from .images import IMG_EXTENSIONS, find_fault, log_progress, printable, walk_files

_NAMED = 10  # files of a kind that the log names
_CHECK_THREADS = 8  # more than cores, for network file systems


@register('DATASETS')
class UnlabelledImageFolder(BaseDataset):
    """Every readable image below a folder, of any nesting.

    Files are sorted by path. Hidden files and folders (``.name``) are skipped, links are followed, a folder that is
    reached twice is read once. Files that cannot be used are counted in the log, the first ten of a kind by name, and
    skipped. No sample is ever replaced by another: a file that fails later, in training, is an error with its name.
    (mmengine's own datasets take a random other sample whenever a pipeline returns None.)

    Args:
        data_root: The folder. It must be on a local or mounted file system.
        pipeline: Transforms, or their configs, applied to ``dict(img_path=..., sample_idx=...)``. Begin with
            ``dict(type='LoadImageStrict')``.
        check: How to check each file at the start.
            ``'header'``: read type and size, and the mark at the end, 0.1 to 0.2 ms a file. Files without such a mark
            (truncated, or neither JPEG nor PNG) are decoded.
            ``'decode'``: decode every file, some milliseconds each. This finds all that cannot be read.
            ``'none'``: open no file; for a folder known to be sound.
        **kwargs: Further arguments of mmengine's ``BaseDataset``: ``indices``, ``serialize_data``, ``lazy_init``.

    Raises:
        FileNotFoundError: If ``data_root`` is not a folder, or contains no readable image.
        ValueError: If ``check`` is none of the three.
    """

    def __init__(self, data_root: str, pipeline: Sequence = (), check: str = 'header', **kwargs: Any) -> None:
        if check not in ('header', 'decode', 'none'):
            raise ValueError(f"check={check!r} must be 'header', 'decode' or 'none'")
        self.check = check
        super().__init__(ann_file='', data_root=os.path.expanduser(data_root), pipeline=pipeline, **kwargs)

    def __getitem__(self, idx: int) -> dict:
        """Return the image at ``idx`` after the pipeline; raise ValueError if that returns None."""
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
        others = [printable(path) for path in files if not path.lower().endswith(IMG_EXTENSIONS)]
        if self.check != 'none':
            reasons = self._check(found)
            faults += [(path, reason) for path, reason in zip(found, reasons, strict=True) if reason]
            found = [path for path, reason in zip(found, reasons, strict=True) if not reason]
        skipped = {
            'unreadable': [f'{printable(path)}: {reason}' for path, reason in faults],
            f'of other types ({_count_types(others)})': others,
        }
        self._log(len(found), skipped)
        if not found:
            counts = ' and '.join(f'{len(names)} {kind}' for kind, names in skipped.items())
            raise FileNotFoundError(
                f'data_root={self.data_root!r} contains no readable image, but {counts}; images end in '
                f'{", ".join(IMG_EXTENSIONS)}'
            )
        return [{'img_path': os.path.join(self.data_root, path)} for path in found]

    def _check(self, paths: list[str]) -> list[str | None]:
        """Return what is wrong with each file, or None."""
        find = partial(find_fault, decode=self.check == 'decode')
        with ThreadPool(_CHECK_THREADS) as pool:
            reasons = pool.imap(find, (os.path.join(self.data_root, path) for path in paths), chunksize=32)
            return list(log_progress(reasons, f'{self.data_root}: files checked', len(paths)))

    def _log(self, count: int, skipped: dict[str, list[str]]) -> None:
        """Log the number of images, and which files of each kind are skipped."""
        total = sum(map(len, skipped.values()))
        lines = [f'{self.data_root}: {count:,} images, {total:,} files skipped']
        for kind, files in skipped.items():
            if files:
                lines += [f'  {len(files):,} {kind}:', *(f'    {file}' for file in files[:_NAMED])]
            if len(files) > _NAMED:
                lines.append(f'    and {len(files) - _NAMED:,} more')
        print_log('\n'.join(lines), 'current', logging.WARNING if total else logging.INFO)


def _count_types(paths: Iterable[str]) -> str:
    """Count paths by ending, such as ``.txt 3, .json 1``."""
    counts = Counter(os.path.splitext(path)[1].lower() or 'no ending' for path in paths)
    return ', '.join(f'{ending} {count:,}' for ending, count in counts.most_common(5)) or 'none'
