"""Contract: a user's mistake ends a tool with one line; its traceback is in the log, or on request on the terminal."""

import argparse
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
from engine import toy_engine
from engine.toy_engine import Interrupted, last_checkpoint, toy_config
from mmengine.config import Config
from PIL import Image
from processes import ROOT, run
from torch._utils import ExceptionWrapper

from randsac_mm.datasets.images import UnreadableImageError
from randsac_mm.engine import tool

SMOKE = ROOT / 'configs' / 'smoke'
DATA = 'train_dataloader.dataset.dataset.data_root='


@pytest.fixture
def photos(tmp_path):
    """Two images in a folder with a space in its name."""
    folder = tmp_path / 'my photos'
    folder.mkdir()
    for name in 'ab':
        Image.fromarray(np.random.randint(0, 255, (40, 50, 3), dtype=np.uint8)).save(folder / f'{name}.png')
    return folder


def mistake(run_tool, *arguments):
    with pytest.raises(SystemExit) as end:
        run_tool('train.py', *arguments)
    return str(end.value)


def logs(folder):
    return ''.join(path.read_text() for path in folder.glob('*/*.log'))


@pytest.mark.parametrize(
    ('config', 'options', 'named', 'begun'),
    [
        ('randsac_vit_photos', [f'{DATA}/no where'], '/no where', False),
        ('finetune_vit_digits', ['model.backbone.init_cfg.checkpoint=/none/epoch_9.pth'], r'/none/epoch_9\.pth', True),
        ('randsac_vit_photos', ['load_from=/none/epoch_9.pth', f'{DATA}PHOTOS'], r'/none/epoch_9\.pth', True),
        ('randsac_vit_photos', ['model.type=RandSCA'], 'did you mean RandSAC', False),
        ('randsac_vit_photos', ['model.type=Perceiver', f'{DATA}PHOTOS'], 'Perceiver is not in', True),
        ('randsac_vit_photos', ['model.neck.num_layer=2'], 'did you mean num_layers', False),
        ('randsac_vit_photos', ['model={"_delete_":1,"type":"RandSAC"}', f'{DATA}PHOTOS'], "missing.*'backbone'", True),
        ('finetune_vit_digits', ['model.backbone.init_cfg=None', 'model.head.num_classes=3'], 'has 10', False),
    ],
)  # fmt: skip
def test_mistakes_end_training_with_one_line(run_tool, photos, tmp_path, capsys, config, options, named, begun):
    options = [f'experiment_name={tmp_path.name}', *(option.replace('PHOTOS', str(photos)) for option in options)]
    text = mistake(run_tool, SMOKE / f'{config}.py', '--work-dir', tmp_path / 'run', '--cfg-options', *options)
    assert text.startswith('train.py: error: ')
    assert len(text.splitlines()) <= 2
    assert tool.re.search(named, text)
    assert ('Traceback' in logs(tmp_path / 'run')) == begun
    assert 'Traceback' not in ''.join(capsys.readouterr())


@pytest.mark.slow
def test_an_image_that_a_worker_cannot_read(tmp_path):
    config = toy_config(tmp_path / 'run', epochs=2, workers=1)
    config['train_dataloader']['dataset']['damaged'] = 5
    config.update(custom_imports={'imports': ['engine.toy_engine']}, log_level='INFO')
    Config(config).dump(tmp_path / 'toy.py')
    text = run('python', ROOT / 'tools' / 'train.py', tmp_path / 'toy.py', ok=False, paths=[ROOT / 'tests'])
    assert [line for line in text.splitlines() if 'rror' in line] == [text.splitlines()[-1]]
    assert text.splitlines()[-1] == 'train.py: error: photo 5.png: image file is truncated'
    for word in ('Traceback', 'OneDL', 'Config:', 'Hooks will be executed', 'sys.platform'):
        assert word not in text
        assert word in logs(tmp_path / 'run') or word == 'OneDL'


def test_the_traceback_is_shown_on_request(run_tool, tmp_path, capsys):
    Config(toy_config(tmp_path / 'run', epochs=1)).dump(tmp_path / 'toy.py')
    text = mistake(run_tool, tmp_path / 'toy.py', '--resume', '--traceback')
    assert 'there is no checkpoint' in text
    assert 'Traceback' in capsys.readouterr().err


def call(monkeypatch, work):
    monkeypatch.setattr('sys.argv', ['tool.py'])
    tool.run_tool(tool.make_parser('', config=False), work)


def raising(error):
    def work(args: argparse.Namespace):
        raise error

    return work


@pytest.mark.parametrize('error', [RuntimeError('a fault'), KeyError('name'), TypeError('x')])
def test_faults_of_the_program_keep_their_traceback(monkeypatch, error):
    with pytest.raises(type(error)):
        call(monkeypatch, raising(error))


def test_an_interrupt_ends_without_traceback(monkeypatch):
    with pytest.raises(SystemExit) as caught:
        call(monkeypatch, raising(KeyboardInterrupt()))
    assert caught.value.code == 130


@pytest.mark.parametrize(
    ('script', 'is_tool'), [('tools/train.py', True), ('tools/visualization/attention.py', True), ('-c', False)]
)
def test_an_interrupt_while_libraries_are_imported(tmp_path, script, is_tool):
    """A tool ends without traceback; in a program of the user's own nothing changes."""
    (tmp_path / 'mmengine').mkdir()
    for name in ('__init__', 'config'):
        (tmp_path / 'mmengine' / f'{name}.py').write_text('import os, signal; os.kill(os.getpid(), signal.SIGINT)')
    command = [ROOT / script] if is_tool else [script, 'import randsac_mm']
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env={'PYTHONPATH': f'{tmp_path}:{ROOT}'},
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert done.returncode == -signal.SIGINT
    assert ('KeyboardInterrupt' in done.stderr) == (not is_tool)
    assert ('Traceback' in done.stderr) == (not is_tool)


COMMANDS = {
    'train.py a.py --amp': 'python train.py a.py --amp --resume',
    "train.py 'a b.py' --resume auto --cfg-options x=1": "python train.py 'a b.py' --cfg-options x=1 --resume",
    'train.py --resume=old.pth a.py': 'python train.py a.py --resume',
    'train.py a.py --resume': 'python train.py a.py --resume',
    'train.py a.py --resume --amp': 'python train.py a.py --amp --resume',
    'randsac-mm a.py --extend-to 9': 'randsac-mm train a.py --extend-to 9 --resume',
}


def command_of(monkeypatch, line, work_dir, prog=None, takes_it=True):
    """What a tool names to continue the run of ``work_dir/config.py``."""
    monkeypatch.setattr('sys.argv', shlex.split(line))
    parser, found = argparse.ArgumentParser(prog=prog), []
    parser.add_argument('rest', nargs='*')
    for option in ['--resume', '--cfg-options', '--extend-to'] if takes_it else []:
        parser.add_argument(option, nargs='?')
    parser.add_argument('--amp', action='store_true')
    cfg = Config({'work_dir': str(work_dir)}, 'text', str(work_dir / 'config.py'))
    tool.run_tool(parser, lambda args: found.append(tool.resume_command(cfg)))
    return found[0].removeprefix('To continue: ')


@pytest.mark.parametrize('line', COMMANDS)
def test_the_command_that_continues_is_the_one_that_was_typed(monkeypatch, tmp_path, line):
    prog = 'randsac-mm train' if line.startswith('randsac-mm') else None
    assert command_of(monkeypatch, line, tmp_path, prog) == COMMANDS[line]
    monkeypatch.setenv('RANDSAC_MM_COMMAND', 'bash tools/dist_train.sh a.py 8 --resume auto')
    assert command_of(monkeypatch, line, tmp_path, prog) == 'bash tools/dist_train.sh a.py 8 --resume'


def test_a_run_of_another_tool_is_continued_by_train(monkeypatch, tmp_path):
    expected = f'{tmp_path}/config.py --resume'
    found = command_of(monkeypatch, 'randsac-mm photos', tmp_path, 'randsac-mm pretrain', takes_it=False)
    assert found == f'randsac-mm train {expected}'
    found = command_of(monkeypatch, 'tools/pretrain.py photos', tmp_path, takes_it=False)
    assert found == f'python tools/train.py {expected}'


def toy_file(folder, iteration, **options):
    """A config of two epochs of 4 steps that stops before a step."""
    hook = dict(type='Interrupt', iteration=iteration)
    Config({**toy_config(folder / 'run', epochs=2), 'custom_hooks': [hook], **options}).dump(folder / 'toy.py')
    return folder / 'toy.py'


def test_a_run_that_breaks_off_names_the_command_that_continues_it(run_tool, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(toy_engine, 'Interrupted', OSError)  # as of a disk
    begun = mistake(run_tool, toy_file(tmp_path, 2), '--no-check')
    assert begun == 'train.py: error: OSError', 'there is no checkpoint yet'
    text = mistake(run_tool, toy_file(tmp_path, 6), '--no-check')
    expected = f'To continue: python {ROOT}/tools/train.py {tmp_path}/toy.py --no-check --resume'
    assert text.splitlines() == [begun, expected]
    monkeypatch.setattr(toy_engine, 'Interrupted', Interrupted)  # a fault, which keeps its traceback
    words = shlex.split(expected)[4:]
    toy_file(tmp_path, 6)
    with pytest.raises(Interrupted):
        run_tool('train.py', *words)
    assert expected in capsys.readouterr().err
    other = toy_file(tmp_path, None, optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.5)))
    refused = mistake(run_tool, other, *words[1:])
    assert 'lr is 0.5, not 0.1' in refused
    assert 'To continue' not in refused
    run_tool('train.py', toy_file(tmp_path, None), *words[1:])
    assert last_checkpoint(tmp_path / 'run').name == 'epoch_2.pth'


def test_another_process_says_which_it_is(monkeypatch):
    monkeypatch.setenv('RANK', '3')
    monkeypatch.setattr('time.sleep', lambda seconds: None)
    with pytest.raises(SystemExit, match=r'^tool\.py: error: process 3: a\.png$'):
        call(monkeypatch, raising(ValueError('a.png')))


@pytest.mark.parametrize('kind', [ValueError, UnreadableImageError, FileNotFoundError, KeyError])
def test_messages_of_workers(kind):
    try:
        raise kind('a.png: is damaged')
    except kind:
        passed_on = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(kind) as error:
        passed_on.reraise()
    assert tool.describe(error.value).strip("'") == 'a.png: is damaged'


def test_long_messages_have_two_lines_and_empty_ones_a_name():
    assert tool.describe(ValueError('one\n\n two\nthree')) == 'one\ntwo three'
    assert tool.describe(ArithmeticError()) == 'ArithmeticError'
