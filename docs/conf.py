"""Configuration of Sphinx: ``sphinx-build -W --keep-going -b html docs docs/_build``.

Every page is Markdown that a code host shows as well. Links of it are paths of the repository: here they are rewritten,
and the Markdown files outside ``docs/`` that it links to become pages below ``_pages/``.
"""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
OUTSIDE = [path for path in ROOT.glob('*.md') if path.name != 'README.md']
OUTSIDE += [*ROOT.glob('configs/README.md'), *ROOT.glob('configs/*/README.md')]
PAGES = {path: '_pages/' + '-'.join(path.relative_to(ROOT).with_suffix('').parts).lower() for path in OUTSIDE}
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)')

project, author, copyright = 'randsac_mm', 'The randsac_mm authors', 'The randsac_mm authors, Apache-2.0'
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon']
exclude_patterns = ['_build', 'jupyter_execute']  # the second is where the tutorials run
html_theme = 'furo'
html_title = project
html_static_path = ['static']
html_css_files = ['tables.css']
myst_heading_anchors = 3
suppress_warnings = ['misc.highlighting_failure']  # blocks of JSON and configs with dots in place of numbers
# Tutorials run anew in each build, in an empty folder; -D nb_execution_mode=off builds the rest in seconds.
nb_execution_mode = 'force'
nb_execution_in_temp = True
nb_execution_timeout = 900  # of a cell, also on a machine that is busy
nb_execution_raise_on_error = True
nb_merge_streams = True
autodoc_member_order = 'bysource'
autodoc_typehints = 'signature'
napoleon_use_ivar = True
napoleon_custom_sections = [('Paper', 'notes_style')]


def bring_pages(app: Sphinx) -> None:
    """Write the pages of files outside of this folder, where they have changed."""
    for path, name in PAGES.items():
        page = HERE / f'{name}.md'
        page.parent.mkdir(exist_ok=True)
        if not page.exists() or page.read_text() != path.read_text():
            page.write_text(path.read_text())


def adapt(app: Sphinx, name: str, source: list[str]) -> None:
    """Rewrite the links of a page; give tables of results, which tools write, a title."""
    where = next((path for path, page in PAGES.items() if page == name), HERE / f'{name}.md')
    if where.parent.name == 'results' and where.name != 'README.md':
        title = '' if source[0].startswith('#') else f'# {where.stem}\n\n'
        source[0] = f'---\norphan: true\n---\n{title}{source[0]}'

    def relink(match: re.Match) -> str:
        mark, text, link, anchor = match.groups()
        target = (where.parent / link).resolve()
        if target.is_dir() and not (target / 'README.md').exists():
            return text  # a folder: nothing to show
        target = target / 'README.md' if target.is_dir() else target
        if target in PAGES:
            new = f'/{PAGES[target]}.md'
        elif target.is_relative_to(HERE):
            new = f'/{target.relative_to(HERE)}'
        else:
            new = os.path.relpath(target, (HERE / name).parent)
        return f'{mark}[{text}]({new}{anchor or ""})'

    source[0] = LINK.sub(relink, source[0])


def skip(app: Sphinx, what: str, name: str, member: object, skipped: bool, options: dict) -> bool | None:
    """Leave out what says nothing: fields of named tuples, whose class describes them."""
    return True if str(getattr(member, '__doc__', '')).startswith('Alias for field number') else None


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect('builder-inited', bring_pages)
    app.connect('source-read', adapt)
    app.connect('autodoc-skip-member', skip)
