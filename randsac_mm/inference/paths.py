"""The images to read and the names of their results: no name is used twice, no input is overwritten."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from randsac_mm.datasets.images import IMG_EXTENSIONS, find_image_files


def find_images(paths: Sequence[str | os.PathLike], without: Sequence[Path] = ()) -> dict[Path, str]:
    """List image files, each once, with a name for the results of each.

    Args:
        paths: Files, and folders, which are searched by :func:`randsac_mm.datasets.find_image_files`.
        without: Folders below these that are skipped: those of earlier results.

    Returns:
        By file the name of its results: its path below the folder, without ending (``'city/street'``). A name that is
        used already, in upper or lower case, gets a number (``'street_2'``).

    Raises:
        FileNotFoundError: If there is no such file or folder, or no image in a folder.
        ValueError: If ``paths`` is empty.
    """
    if not paths:
        raise ValueError('no image is named: name files or folders')
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in map(Path, paths):
        if not path.exists():
            raise FileNotFoundError(f'there is no image or folder {path}')
        found = find_image_files(path, without) if path.is_dir() else [path]
        if not found:
            raise FileNotFoundError(f'no file in {path} ends in one of {" ".join(IMG_EXTENSIONS)}')
        for file in found:
            if file not in names:
                relative = file.relative_to(path) if path.is_dir() else Path(file.name)
                names[file] = _unused(relative.with_suffix('').as_posix(), taken)
    return names


def check_no_input(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Raise ValueError if a file to be written is one of those to be read, under whatever name or link."""
    identities = {(stat.st_dev, stat.st_ino) for stat in (file.stat() for file in inputs)}
    for file in outputs:
        if file.exists() and (file.stat().st_dev, file.stat().st_ino) in identities:
            raise ValueError(f'{file} is an image to be read and would be overwritten; write to another folder')


def _unused(name: str, taken: set[str]) -> str:
    candidate, number = name, 1
    while candidate.lower() in taken:
        number += 1
        candidate = f'{name}_{number}'
    taken.add(candidate.lower())
    return candidate
