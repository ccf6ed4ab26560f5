"""Many names of parameters in few words, and patterns that choose among them."""

import re
from collections.abc import Collection, Iterable, Sequence
from fnmatch import fnmatchcase

_NUMBER = re.compile(r'(?<=\.)(0|[1-9][0-9]*)(?=\.)')


def collapse(names: Iterable[str]) -> list[str]:
    """Write names that differ in their first number only as one.

    Args:
        names: Dotted names of parameters.

    Returns:
        Names in order of appearance; ``{0-3,7}`` stands for each of these numbers, so that nothing is lost.

    Example:
        >>> collapse(['norm.weight', *(f'layers.{i}.attn.qkv.bias' for i in (0, 1, 2, 5))])
        ['norm.weight', 'layers.{0-2,5}.attn.qkv.bias']
    """
    found: dict[tuple[str, str], set[int]] = {}
    for name in names:
        match = _NUMBER.search(name)
        parts = (name[: match.start()], name[match.end() :]) if match else (name, '')
        found.setdefault(parts, set()).update([int(match[0])] if match else [])
    return [f'{before}{_ranges(sorted(numbers))}{after}' for (before, after), numbers in found.items()]


def choose(names: Collection[str], patterns: str | Sequence[str], option: str) -> set[str]:
    """Find the names that patterns allow.

    Args:
        names: Names to choose from.
        patterns: Patterns as in a shell, ``'ln1.*'``, each for whole names; one or several.
        option: What the patterns are called in the config, for the error.

    Returns:
        The names that match any of them.

    Raises:
        ValueError: If a pattern matches none: it would hide that something is not as expected.

    Example:
        >>> sorted(choose({'ln1.bias', 'ln1.weight', 'ln2.bias'}, ['ln1.*'], 'allow_missing'))
        ['ln1.bias', 'ln1.weight']
    """
    chosen: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        matching = {name for name in names if fnmatchcase(name, pattern)}
        if not matching:
            there = f'matches none of {collapse(sorted(names))}' if names else 'there is nothing to allow'
            raise ValueError(f'{option} names {pattern!r}, but {there}. Remove or correct it')
        chosen |= matching
    return chosen


def generalise(names: Iterable[str]) -> list[str]:
    """Make patterns that match names, and the same names in other layers.

    Example:
        >>> generalise(['layers.0.attn.qkv.bias', 'layers.1.attn.qkv.bias', 'ln1.bias'])
        ['layers.*.attn.qkv.bias', 'ln1.bias']
    """
    return sorted({_NUMBER.sub('*', name, count=1) for name in names})


def _ranges(numbers: Sequence[int]) -> str:
    """Write rising numbers as ``{0-3,7}``, a single one as itself and none as nothing."""
    if len(numbers) < 2:
        return ''.join(map(str, numbers))
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return '{' + ','.join(f'{run[0]}-{run[-1]}' if len(run) > 1 else str(run[0]) for run in runs) + '}'
