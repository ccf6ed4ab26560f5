"""The command ``randsac-mm``: every script of ``tools/`` by name. Torch is not imported before one of them runs."""

import ast
import difflib
import os
import re
import runpy
import sys
import time
from pathlib import Path

from randsac_mm.locations import find_root
from randsac_mm.version import __version__

# Those of every day first; all others follow by name.
_ORDER = (
    *('quickstart', 'pretrain', 'train', 'test', 'check', 'evaluate', 'embed', 'segment', 'detect', 'classify'),
    *('predict', 'export', 'report', 'visualize', 'reproduce'),
)
_RENAMED = {'check-data': 'check', 'export-backbone': 'export'}
_FOLDERS = {'.': '', 'analysis': '', 'visualization': 'visualize '}


def find_commands() -> dict[str, Path]:
    """Return the scripts by the names of their commands: ``train``, ``visualize attention``, ... in order."""
    tools = find_root() / 'tools'
    scripts = {}
    for folder, prefix in _FOLDERS.items():
        for path in sorted((tools / folder).glob('*.py')):
            name = path.stem.replace('_', '-')
            scripts[prefix + _RENAMED.get(name, name)] = path
    places = {name: index for index, name in enumerate(_ORDER)}
    return dict(sorted(scripts.items(), key=lambda item: places.get(item[0].split()[0], len(places))))


def list_commands(commands: dict[str, Path]) -> str:
    """Write a line for each command: its name, and how the docstring of its script begins."""
    width = max(map(len, commands))
    docs = (ast.get_docstring(ast.parse(script.read_bytes())) or '' for script in commands.values())
    begins = (re.split(r'[:;]|\.\s', text)[0] for text in docs)
    return '\n'.join(f'  {name:<{width}}  {text}' for name, text in zip(commands, begins, strict=True))


def main() -> None:
    """Run the command that the command line names, as if its script had been called."""
    words, commands = sys.argv[1:], find_commands()
    if not words or words[0] in ('-h', '--help'):
        print(f'usage: randsac-mm COMMAND ...      (randsac-mm COMMAND --help)\n\n{list_commands(commands)}')
        return
    if words[0] == '--version':
        print(f'randsac-mm {__version__}')
        return
    name = next((name for name in (' '.join(words[:2]), words[0]) if name in commands), None)
    if name is None:
        _refuse(words, commands)
    try:
        _run(f'randsac-mm {name}', commands[name], words[len(name.split()) :])
    except KeyboardInterrupt:  # while libraries are imported
        sys.exit(130)


def _run(name: str, script: Path, arguments: list[str]) -> None:
    os.environ.setdefault('RANDSAC_MM_START', str(time.time()))  # from here on counts what --time allows
    try:
        from randsac_mm import all_types  # noqa: F401
    except ImportError as error:
        sys.exit(f'{name}: error: {error}')
    sys.argv[1:] = arguments
    runpy.run_path(str(script), {'COMMAND': name}, '__main__')


def _refuse(words: list[str], commands: dict[str, Path]) -> None:
    group = {name: path for name, path in commands.items() if name.split()[0] == words[0]}
    if group:
        print(f'randsac-mm {words[0]}: error: choose one of:\n{list_commands(group)}', file=sys.stderr)
    else:
        near = difflib.get_close_matches(words[0], [name.split()[0] for name in commands], 1, 0)[0]
        text = f'there is no command {words[0]}; did you mean {near}? All: randsac-mm --help'
        print(f'randsac-mm: error: {text}', file=sys.stderr)
    sys.exit(2)
