"""Remember on disk which back-end won a measurement, so that the next run does not measure again.

One small JSON file in the user's cache folder. A missing, broken, foreign or unwritable file is as good as none: it
never stops a run.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

VERSION = 1  # of the file's layout


def cache_file() -> Path:
    """Name the file: ``$XDG_CACHE_HOME/randsac_mm/choices.json``, by default below ``~/.cache``."""
    folder = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(folder).expanduser() / 'randsac_mm' / 'choices.json'


def cache_key(kind: str, key: Mapping[str, object]) -> str:
    """Write what a choice depends on as one line.

    Example:
        >>> cache_key('linear', {'torch': '2.11', 'device': 'cpu'})
        '{"device": "cpu", "kind": "linear", "torch": "2.11"}'
    """
    return json.dumps({'kind': kind, **key}, sort_keys=True, default=str)


def _read() -> dict[str, dict]:
    try:
        content = json.loads(cache_file().read_text(encoding='utf-8'))
    except (OSError, ValueError, RuntimeError):  # RuntimeError: the user has no home
        return {}
    if (
        not isinstance(content, dict)
        or content.get('version') != VERSION
        or not isinstance(content.get('choices'), dict)
    ):
        return {}
    return content['choices']


def recall(key: str) -> dict | None:
    """Look up name, seconds and reasons for exclusion under a key; None if nothing sensible is remembered."""
    entry = _read().get(key)
    if not isinstance(entry, dict) or not isinstance(entry.get('name'), str):
        return None
    seconds, excluded = entry.get('seconds'), entry.get('excluded')
    if not isinstance(seconds, dict) or not isinstance(excluded, dict):
        return None
    if not all(isinstance(value, float) for value in seconds.values()):
        return None
    if not all(isinstance(value, str) for value in excluded.values()):
        return None
    return entry


def remember(key: str, entry: dict) -> None:
    """Write an entry; the file is replaced as a whole, so that nobody ever reads half of it."""
    with contextlib.suppress(OSError, RuntimeError):
        file = cache_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({'version': VERSION, 'choices': {**_read(), key: entry}}, indent=1, sort_keys=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
        try:
            with os.fdopen(handle, 'w', encoding='utf-8') as stream:
                stream.write(text)
            os.replace(temporary, file)
        except OSError:
            os.unlink(temporary)
