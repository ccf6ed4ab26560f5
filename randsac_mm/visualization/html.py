"""HTML from Python: elements whose text and attributes are escaped unless they are elements themselves."""

import base64
from html import escape
from io import BytesIO
from pathlib import Path

from PIL import Image

_VOID = {'br', 'img', 'meta'}


class Html(str):
    """Text that is HTML already; any other string is escaped by :func:`element`."""

    __slots__ = ()


def element(name: str, *children: str, **attributes: str | int | float) -> Html:
    """Make an element.

    Args:
        name: Its name, as ``'p'``.
        children: What it holds: elements as they are, other strings escaped.
        attributes: Its attributes, escaped; a final underscore is dropped and others become hyphens, so that
            ``class_='x'`` and ``aria_label='x'`` can be written.

    Returns:
        The element.

    Example:
        >>> element('p', 'a < b ', element('b', 'c'), class_='"x"')
        '<p class="&quot;x&quot;">a &lt; b <b>c</b></p>'
    """
    named = ((key.rstrip('_').replace('_', '-'), value) for key, value in attributes.items())
    head = name + ''.join(f' {key}="{escape(str(value))}"' for key, value in named)
    return Html(f'<{head}>' if name in _VOID else f'<{head}>{join(*children)}</{name}>')


def join(*children: str) -> Html:
    """Put elements and texts one after the other; texts are escaped."""
    return Html(''.join(child if isinstance(child, Html) else escape(child) for child in children))


def table(caption: str, head: list[str], rows: list[list[str]], class_: str = 'plain') -> Html:
    """Make a table with a caption; the first cell of each row is its heading."""
    body = [
        element('tr', element('th', row[0], scope='row'), *(element('td', cell) for cell in row[1:])) for row in rows
    ]
    parts = [element('caption', caption)]
    if head:
        parts.append(element('thead', element('tr', *(element('th', cell, scope='col') for cell in head))))
    inside = element('table', *parts, element('tbody', *body), class_=class_)
    return element('div', inside, class_='scroll', tabindex='0', role='region', aria_label=caption)


def image(path: str | Path, alt: str) -> Html:
    """Embed a picture, with all its pixels in the page, as few bytes as PNG allows."""
    with Image.open(path) as picture:
        buffer = BytesIO()
        picture.convert('RGB').save(buffer, 'PNG', optimize=True)
        data = base64.b64encode(buffer.getvalue()).decode('ascii')
        return element('img', src=f'data:image/png;base64,{data}', alt=alt, width=picture.width, height=picture.height)
