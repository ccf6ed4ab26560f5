"""``--cfg-options KEY=VALUE``: text from a command line, read by what the config has at the key."""

import ast
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from mmengine.config import Config

# Keys that name a file, a folder or a run: strings, also where the config has None.
_NAMES = re.compile(r'(?:^|_)(?:checkpoint|dir|file|from|path|root)$|^experiment_name$')
_WORDS = {'true': True, 'false': False, 'none': None}
_FREE = (list, tuple, dict, type(None))


def parse_options(cfg: Config, options: Iterable[str]) -> dict[str, Any]:
    """Return the dotted keys and the values of options.

    Where the config has a string, the value is exactly that text. So it is for paths (``load_from``, ``*_root``, ...)
    where the config has None, but for ``None``. Elsewhere numbers, true, false, none and Python's literals are read;
    ``a,b`` and ``[a,b]`` become lists and ``(a,b)`` a tuple, also of bare words and nested; the rest is text.

    Raises:
        ValueError: If an option has no ``=``, or the config has a number or a bool where the value is of another type.
    """
    parsed = {}
    for option in options:
        key, equals, text = option.partition('=')
        if not key or not equals:
            raise ValueError(f'--cfg-options {option!r} must be KEY=VALUE; quote values with spaces')
        before = _find(cfg, key)
        is_name = before is None and text.lower() != 'none' and _NAMES.search(key.rpartition('.')[2])
        parsed[key] = text if isinstance(before, str) or is_name else _fit(key, before, _parse(text))
    return parsed


def _find(node: Any, key: str) -> Any:
    for part in key.split('.'):
        if isinstance(node, (list, tuple)):
            node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
        else:
            node = node.get(part) if isinstance(node, (dict, Config)) else None
    return node


def _fit(key: str, before: Any, value: Any) -> Any:
    """Check the value against a number or bool of the config; a whole number for an int becomes one: 1e5."""
    if isinstance(before, bool):
        fits = value is None or isinstance(value, bool)
    else:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = not isinstance(before, (int, float)) or is_number or isinstance(value, _FREE)
    if not fits:
        kind = type(before).__name__
        raise ValueError(f'--cfg-options {key}={value}: the config has the {kind} {before} there, not {value!r}')
    return int(value) if type(before) is int and isinstance(value, float) and value.is_integer() else value


def _parse(text: str) -> Any:
    text = text.strip()
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    parts = _split(text[1:-1]) if text[:1] + text[-1:] in ('()', '[]') else None
    kind = tuple if parts is not None and text[0] == '(' else list
    with suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Python's, about texts such as '1if'
        value = ast.literal_eval(text)
        if isinstance(value, (str, *_FREE)):
            return kind(value) if isinstance(value, tuple) else value
    if parts is None:
        parts = _split(text)
        if not parts or parts == [text]:
            return text
    return kind(map(_parse, parts))


def _split(text: str) -> list[str] | None:
    """Split at the commas outside of brackets and quotes; None if one of these does not close, or they are too deep."""
    parts, depth, quote = [''], 0, ''
    for char in text:
        if char in '\'"' and quote in ('', char):
            quote = '' if quote else char
        elif not quote:
            depth += (char in '([') - (char in ')]')
        if not 0 <= depth < 50:
            return None
        if char == ',' and not depth and not quote:
            parts.append('')
        else:
            parts[-1] += char
    return None if depth or quote else parts if parts[-1].strip() else parts[:-1]
