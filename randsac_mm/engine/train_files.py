"""Fingerprint of the training images: which files a checkpoint was trained on, and what has changed since."""

import gzip
import hashlib
import os
import pickle
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from randsac_mm.datasets.data_report import name_some
from randsac_mm.datasets.images import printable
from randsac_mm.files import atomic_write

FILE_LIST = 'train_files.txt.gz'  # in the work directory: the lines of list_files


def list_files(dataset: Any) -> list[str]:
    """Return a line "size name" for each image and mask of a data set, names relative to its root.

    Of images in memory: a checksum in place of the size. Of others: only how many there are.
    """
    dataset = getattr(dataset, 'wrapped', dataset)  # by SampleSeedHook
    if hasattr(dataset, 'datasets'):  # several in one
        return [line for part in dataset.datasets for line in list_files(part)]
    if hasattr(images := getattr(dataset, 'images', None), 'cpu'):
        return [f'{zlib.crc32(images.cpu().contiguous().numpy()):08x} {len(images)} images in memory']
    if hasattr(dataset, 'dataset'):  # a wrapper
        return list_files(dataset.dataset)
    keys = ('img_path', 'seg_map_path')
    paths = [entry[key] for entry in _list_entries(dataset) for key in keys if entry.get(key)]
    if not paths:
        return [f'- {len(dataset)} images of {type(dataset).__name__}']
    root = getattr(dataset, 'data_root', None) or os.path.commonpath(paths)
    inside = os.path.join(root, '')
    return [f'{_size(p)} {p[len(inside) :] if p.startswith(inside) else os.path.relpath(p, root)}' for p in paths]


def _list_entries(dataset: Any) -> Iterator[dict[str, Any]]:
    entries = getattr(dataset, 'data_list', ())
    if getattr(dataset, 'serialize_data', False):  # read as mmengine wrote it; get_data_info takes four times as long
        dataset.full_init()
        data, ends = dataset.data_bytes.tobytes(), dataset.data_address.tolist()
        entries = (pickle.loads(data[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    return (entry for entry in entries if isinstance(entry, dict))


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:  # not in a local folder
        return -1


def fingerprint(lines: Sequence[str]) -> dict[str, Any]:
    """Return number and hash of the lines of :func:`list_files`, in their order."""
    return {'files': len(lines), 'hash': hashlib.sha256(_encode(lines)).hexdigest()}


def describe_change(lines: Sequence[str], saved: dict[str, Any], folder: Path) -> str | None:
    """Return what has changed since a checkpoint in ``folder`` with the fingerprint ``saved``, or None."""
    if saved == fingerprint(lines):
        return None
    before: list[str] = []
    with suppress(OSError, EOFError, ValueError, zlib.error):
        before = gzip.decompress((folder / FILE_LIST).read_bytes()).decode(errors='surrogateescape').split('\n')
    if fingerprint(before) != saved:  # of another run, or none
        return f'there are {len(lines):,} files, not {saved["files"]:,}, or they have other names, sizes or order'
    old, new = (dict(line.split(' ', 1)[::-1] for line in some) for some in (before, lines))
    kinds = {
        'fewer': old.keys() - new.keys(),
        'new': new.keys() - old.keys(),
        'changed': {name for name in old.keys() & new.keys() if old[name] != new[name]},
    }
    found = [f'{len(s):,} {kind}: {name_some([*map(printable, sorted(s))])}' for kind, s in kinds.items() if s]
    return '; '.join(found) or 'the files have another order'


def write_list(lines: Sequence[str], folder: Path) -> None:
    """Write the lines of :func:`list_files` for a later :func:`describe_change`."""
    with atomic_write(folder / FILE_LIST) as path:
        path.write_bytes(gzip.compress(_encode(lines), 1))


def _encode(lines: Sequence[str]) -> bytes:
    return '\n'.join(lines).encode(errors='surrogateescape')
