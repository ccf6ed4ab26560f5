"""A folder of images without labels."""

import logging
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from mmengine.dist import is_main_process
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from PIL import Image

from randsac_mm.registry import register

from .images import IMG_EXTENSIONS, MAX_PIXELS, check_max_pixels, find_fault, printable, walk_files

_NAMED = 10  # files of a kind that the log names
_CHUNK = 32  # files that a thread checks at a time
_PROGRESS_SECONDS = 30


@register('DATASETS')
class UnlabelledImageFolder(BaseDataset):
    """Read every image below a folder, of any nesting, and leave out what is none, by name and number.

    Files are taken in the order of their paths. Hidden files and folders (``.name``) are skipped, links are followed,
    a folder that is reached twice is read once. A file that cannot be used is named in the log (the first ten of a
    kind; all of them in ``report``) and left out. No sample is ever replaced by another: a file that fails later,
    while training, is an error with its name. (mmengine's own datasets take a random other sample whenever a pipeline
    returns None.)

    Args:
        data_root: The folder. It must be on a local or mounted file system.
        pipeline: Transforms, or their configs, applied to ``dict(img_path=..., sample_idx=...)``. Begin with
            ``dict(type='LoadImageStrict')``.
        extensions: Endings of image files, in lower case; upper case is taken as well. None tries every file.
        check: What to do with each file at the start.
            ``'header'``: read type and size, and see whether the end is there, 0.1 to 0.2 ms a file.
            Files without a recognisable end (truncated, or neither JPEG nor PNG) are decoded.
            ``'decode'``: decode every file, some milliseconds each. This finds all that cannot be read.
            ``'none'``: open no file; for a folder known to be sound.
        max_pixels: Largest height times width of an image. A small file can decode to gigabytes.
        report: A text file to write, with a line for every file left out: reason, tab, path.
        num_threads: Threads for the check. More than the number of cores help on a network file system.
        indices: Take only these images, or the first so many, as in mmengine's ``BaseDataset``.
        serialize_data: Whether to keep the list of paths in one buffer that data loader workers share.
        lazy_init: Whether to wait with reading the folder until the first use.

    Raises:
        FileNotFoundError: If ``data_root`` is not a folder, or holds no readable image; the message counts what it
            holds.
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
        extensions: Sequence[str] | None = IMG_EXTENSIONS,
        check: str = 'header',
        max_pixels: int = MAX_PIXELS,
        report: str | None = None,
        num_threads: int = 8,
        indices: int | Sequence[int] | None = None,
        serialize_data: bool = True,
        lazy_init: bool = False,
    ) -> None:
        if check not in ('header', 'decode', 'none'):
            raise ValueError(f"check={check!r} must be 'header', 'decode' or 'none'")
        if num_threads < 1:
            raise ValueError(f'num_threads={num_threads} must be at least 1')
        self.check = check
        self.extensions = None if extensions is None else tuple(extension.lower() for extension in extensions)
        self.max_pixels = check_max_pixels(max_pixels)
        self.report = report
        self.num_threads = num_threads
        super().__init__(
            ann_file='',
            data_root=os.path.expanduser(data_root),
            pipeline=pipeline,
            indices=indices,
            serialize_data=serialize_data,
            lazy_init=lazy_init,
        )

    def __getitem__(self, idx: int) -> dict:
        """Return the image at ``idx`` after the pipeline, and never another one.

        Raises:
            ValueError: If the pipeline returns None.
        """
        if not self._fully_initialized:
            self.full_init()
        data = self.prepare_data(idx)
        if data is None:
            raise ValueError(
                f'the pipeline returned None for {printable(self.get_data_info(idx)["img_path"])}; a transform must '
                'return a result or raise an error'
            )
        return data

    def load_data_list(self) -> list[dict]:
        """Find and check the images."""
        if not os.path.isdir(self.data_root):
            raise FileNotFoundError(
                f'data_root={self.data_root!r} is not a folder; set it to the folder of your images'
            )
        found, others, unreadable = [], [], []

        def note(error: OSError) -> None:
            unreadable.append((os.path.relpath(error.filename, self.data_root), error.strerror))

        for path in sorted(walk_files(self.data_root, note)):
            wanted = self.extensions is None or path.lower().endswith(self.extensions)
            (found if wanted else others).append(path)
        if self.check != 'none':
            found, faults = self._sound(found)
            unreadable += faults
        self._tell(len(found), unreadable, others)
        if not found:
            known = 'any file' if self.extensions is None else ', '.join(self.extensions)
            raise FileNotFoundError(
                f'data_root={self.data_root!r} holds no readable image, but {len(unreadable)} unreadable files and '
                f'{len(others)} of other types ({_types(others) or "none"}). Tried were: {known}'
            )
        return [{'img_path': os.path.join(self.data_root, path)} for path in found]

    def extra_repr(self) -> list[str]:
        """Describe the folder."""
        return [f'Folder of images: \t{self.data_root}', f'Check: \t{self.check}']

    def _sound(self, paths: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
        """Split paths into those without a fault and (path, reason) of the others."""
        fault_of = partial(find_fault, max_pixels=self.max_pixels, decode=self.check == 'decode')

        def faults_of(chunk: list[str]) -> list[str | None]:
            return [fault_of(os.path.join(self.data_root, path)) for path in chunk]

        chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
        sound, faults, told = [], [], time.monotonic()
        with ThreadPoolExecutor(self.num_threads) as pool, warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # max_pixels decides
            for chunk, reasons in zip(chunks, pool.map(faults_of, chunks), strict=True):
                sound += [path for path, reason in zip(chunk, reasons, strict=True) if reason is None]
                faults += [(path, reason) for path, reason in zip(chunk, reasons, strict=True) if reason is not None]
                if time.monotonic() - told > _PROGRESS_SECONDS:
                    told = time.monotonic()
                    print_log(
                        f'{self.data_root}: checked {len(sound) + len(faults):,} of {len(paths):,} files', 'current'
                    )
        return sound, faults

    def _tell(self, count: int, unreadable: list[tuple[str, str]], others: list[str]) -> None:
        """Log what was found and what is left out, and write the report."""
        left_out = [(reason, path) for path, reason in unreadable] + [('other type', path) for path in others]
        lines = [f'{self.data_root}: {count:,} images, {len(left_out):,} files left out']
        for what, files in (
            ('unreadable', [f'{printable(path)}: {reason}' for path, reason in unreadable]),
            (f'of other types ({_types(others)})', [printable(path) for path in others]),
        ):
            if files:
                lines.append(f'  {len(files):,} {what}:')
                lines += [f'    {file}' for file in files[:_NAMED]]
                if len(files) > _NAMED:
                    where = f'see {self.report}' if self.report else "set report='left_out.txt' to list all"
                    lines.append(f'    and {len(files) - _NAMED:,} more, {where}')
        print_log('\n'.join(lines), 'current', logging.WARNING if left_out else logging.INFO)
        if self.report and is_main_process():
            with open(self.report, 'w', encoding='utf-8') as file:
                file.writelines(f'{reason}\t{printable(path)}\n' for reason, path in left_out)


def _types(paths: Iterable[str]) -> str:
    """Count paths by ending, such as ``.txt 3, .json 1``."""
    counts = Counter(os.path.splitext(path)[1].lower() or 'no ending' for path in paths)
    return ', '.join(f'{printable(ending)} {count:,}' for ending, count in counts.most_common(5))
