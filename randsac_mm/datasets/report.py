"""What a check finds in a data set."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_NAMED = 10


@dataclass
class DataReport:
    """What a check finds in a data set.

    Attributes:
        name: The key of the data set in the config, such as ``'train_dataloader.dataset'``.
        facts: What is in it, in plain values for JSON.
        errors: Why it must not be used: a line each, that begins with the file or key.
        warnings: What is left out or looks wrong: a line each.
    """

    name: str
    facts: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def name_some(names: Sequence[Any]) -> str:
    """Return the first ten of several names, and how many more there are.

    Example:
        >>> name_some(['a.png', 'b.png'])
        'a.png, b.png'
    """
    more = f' and {len(names) - _NAMED:,} more' if len(names) > _NAMED else ''
    return ', '.join(map(str, names[:_NAMED])) + more
