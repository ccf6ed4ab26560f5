"""Contract: ``randsac-mm`` runs every script by name and is quick to refuse; every script bounds spinning threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

from randsac_mm import cli
from randsac_mm.locations import command_line

# Those that were promised, whatever is in tools/.
PROMISED = [
    *('quickstart', 'pretrain', 'train', 'test', 'check', 'evaluate', 'embed', 'segment', 'detect', 'classify'),
    *('predict', 'export', 'report', 'visualize', 'reproduce'),
]
COMMANDS = cli.find_commands()


@pytest.fixture
def command(monkeypatch):
    """Call the command in this process."""

    def call(*words):
        monkeypatch.setenv('RANDSAC_MM_START', '0')
        monkeypatch.setattr(sys, 'argv', ['/bin/randsac-mm', *map(str, words)])
        cli.main()

    return call


def light(tmp_path, *words):
    """Call the command in a process of its own in which torch cannot be imported."""
    script = tmp_path / 'randsac-mm'
    script.write_text("import sys\nsys.modules['torch'] = None\nfrom randsac_mm.cli import main\nmain()\n")
    return subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, env=environment(), cwd=tmp_path
    )


@pytest.mark.parametrize('name', PROMISED)
def test_every_promised_command_has_its_script(name):
    scripts = [path for words, path in COMMANDS.items() if words.split()[0] == name]
    assert scripts
    assert all(path.is_file() for path in scripts)


def test_every_script_for_users_is_a_command(root):
    folders = [root / 'tools' / name for name in ('', 'analysis', 'visualization')]
    assert sorted(COMMANDS.values()) == sorted(path for folder in folders for path in folder.glob('*.py'))
    order = [words.split()[0] for words in COMMANDS]
    assert list(dict.fromkeys(order))[: len(PROMISED)] == PROMISED


@pytest.mark.parametrize('words', [[], ['--help']])
def test_help_has_a_line_for_each_command_and_needs_no_torch(tmp_path, words):
    done = light(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[2:]
    assert [line[2:].partition('  ')[0] for line in lines] == list(COMMANDS)
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize(
    ('words', 'proposed'),
    [
        (['trian', 'config.py'], ['train']),
        (['check_data'], ['check']),
        (['visualise', 'attention'], ['visualize']),
        (['visualize'], [name for name in COMMANDS if name.startswith('visualize ')]),
        (['visualize', 'weights'], ['visualize skip-weights']),
    ],
)
def test_an_unknown_command_is_refused_with_what_is_near_and_without_torch(tmp_path, words, proposed):
    done = light(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert not done.stdout
    assert done.stderr.startswith('randsac-mm')
    assert all(name in done.stderr for name in proposed)
    assert 'Traceback' not in done.stderr


def test_missing_libraries_are_one_line(tmp_path):
    done = light(tmp_path, 'train', 'config.py')
    assert done.returncode == 1
    assert done.stderr.startswith('randsac-mm train: error: ')
    assert len(done.stderr.splitlines()) == 1


def test_errors_help_and_records_name_the_command(command, capsys, monkeypatch):
    with pytest.raises(SystemExit, match='randsac-mm train: error: there is no config none'):
        command('train', 'none.py')
    with pytest.raises(SystemExit):
        command('train', '--help')
    text = capsys.readouterr().out
    assert text.startswith('usage: randsac-mm train ')
    assert 'randsac-mm train configs/randsac/vit-t_cifar10.py --amp' in text
    assert 'tools/train.py' not in text
    monkeypatch.setattr(sys, 'argv', ['x/train.py', 'a b.py', '--amp'])
    assert command_line() == f"{Path(sys.executable).name} x/train.py 'a b.py' --amp"
    monkeypatch.setattr(sys.modules['__main__'], 'COMMAND', 'randsac-mm train', raising=False)
    assert command_line() == "randsac-mm train 'a b.py' --amp"


def test_a_command_of_two_words_works_from_any_folder(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command('visualize', 'serialization', 'configs/randsac/vit-t_cifar10.py', '--out', 'out', '--num', 1)
    assert {path.suffix for path in (tmp_path / 'out').iterdir()} >= {'.png', '.gif'}


WATCH = """
import os, runpy, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] not in OURS:
            os.write(1, f"{script} {os.environ.get('GOMP_SPINCOUNT')} {os.environ.get('KMP_BLOCKTIME')}\\n".encode())
            os._exit(0)

OURS = {*sys.stdlib_module_names, 'randsac_mm', 'measure', 'org'}  # the last is what copy looks for
sys.meta_path.insert(0, Watch())
for script in sys.argv[1:]:
    child = os.fork()
    if not child:
        sys.path.insert(0, os.path.dirname(script))
        sys.argv = [script, '--help']
        runpy.run_path(script, run_name='__main__')
    os.waitpid(child, 0)
"""


@pytest.mark.parametrize(('own', 'expected'), [({}, ['1000', 'None']), ({'KMP_BLOCKTIME': '5'}, ['None', '5'])])
def test_every_script_bounds_spinning_before_it_imports_any_library(root, own, expected):
    variables = ('GOMP_SPINCOUNT', 'KMP_BLOCKTIME', 'OMP_WAIT_POLICY')
    env = {key: value for key, value in environment().items() if key not in variables} | own
    scripts = [*COMMANDS.values(), *(root / 'tools' / 'benchmarks' / f'{name}.py' for name in ('step', 'data'))]
    line = [sys.executable, '-c', WATCH, *map(os.fspath, scripts)]
    done = subprocess.run(line, capture_output=True, text=True, env=env)
    assert [line.split() for line in done.stdout.splitlines()] == [[str(path), *expected] for path in scripts]
