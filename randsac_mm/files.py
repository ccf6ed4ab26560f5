"""Files that are complete or absent."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that is renamed to ``path`` at the end of the block.

    Missing folders are made. After an error in the block the temporary file is deleted and ``path`` is unchanged. The
    temporary name ends like ``path``, so that what chooses a format by the ending works.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with atomic_write(Path(folder, 'scores.json')) as temporary:
        ...         _ = temporary.write_text('{}')
        ...     os.listdir(folder)
        ['scores.json']
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'.{path.stem}.{os.getpid()}.partial{path.suffix}')
    try:
        yield temporary
        with open(temporary, 'rb+') as file:
            os.fsync(file.fileno())  # the contents reach the disk before the name does
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, content: Any, **options: Any) -> None:
    """Write plain values as indented JSON by :func:`atomic_write`; options are those of ``json.dumps``."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, **options) + '\n')


def sha256(path: str | os.PathLike) -> str:
    """Compute the SHA-256 digest of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
