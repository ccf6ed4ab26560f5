"""Corruptions of the last checkpoint: the run continues from the right one, and nothing is lost.

``RELIABILITY_RUNS=200 python -m pytest tests/reliability/test_corruption.py -s`` (default: 40; 0.3 s each).
"""

import hashlib
import os
import random
import shutil
import zipfile

import pytest
import torch
from engine.toy_engine import assert_same, toy_config, train, trained_state
from mmengine.config import Config
from mmengine.runner import Runner

from randsac_mm.engine.work_dir import use_resume

RUNS = int(os.environ.get('RELIABILITY_RUNS', '40'))


def truncated(path, draw):
    os.truncate(path, draw.randrange(1, path.stat().st_size))


def flipped(path, draw):
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def zeroed(path, draw):
    content = bytearray(path.read_bytes())
    length = draw.choice([512, 4096, len(content)])
    begin = draw.randrange(len(content) - length + 1)
    content[begin : begin + length] = bytes(length)
    path.write_bytes(content)


def missing(path, draw):
    path.unlink()


def an_archive(path):
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', b'junk')


def replaced(path, draw):
    path.unlink()
    replacements = [
        lambda: path.mkdir(),
        lambda: path.symlink_to('nowhere.pth'),
        lambda: path.symlink_to(path.parent),
        lambda: path.write_bytes(draw.randbytes(5000)),
        lambda: path.write_bytes(b''),
        lambda: path.write_text('11/27 INFO Epoch(train) [1][4/4] loss: 0.1'),
        lambda: torch.save({'state_dict': {'layer.weight': torch.zeros(2, 3)}}, path),
        lambda: torch.save([1, 2], path),
        lambda: an_archive(path),
    ]
    draw.choice(replacements)()


def pointer(path, draw):
    file = path.with_name('last_checkpoint')
    file.unlink()
    replacements = [
        lambda: file.write_bytes(draw.randbytes(50)),
        lambda: file.mkdir(),
        lambda: file.symlink_to('nowhere'),
        *(lambda text=text: file.write_text(str(text)) for text in ('', path.parent, path.with_name('toy.log'))),
    ]
    draw.choice(replacements)()


CORRUPTIONS = [truncated, flipped, zeroed, truncated, flipped, missing, replaced, replaced, replaced, pointer]


def contents(path):
    """Return everything in a checkpoint as text, tensors by their bytes."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest()
        if isinstance(value, dict):
            return [(key, plain(item)) for key, item in value.items()]
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    return repr(plain(torch.load(path, weights_only=True)))


def state_of(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file()}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run that was killed after three of four epochs, and the contents of its last two checkpoints."""
    folder = tmp_path_factory.mktemp('corruption') / 'run'
    train(folder, epochs=4, stop=13, max_keep_ckpts=3)
    return folder, contents(folder / 'epoch_3.pth')


@pytest.mark.slow
def test_the_newest_whole_checkpoint_is_found_and_nothing_is_changed(run, tmp_path):
    source, last = run
    found = {2: 0, 3: 0}
    for number in range(RUNS):
        draw, corrupt = random.Random(number), CORRUPTIONS[number % len(CORRUPTIONS)]
        folder = tmp_path / f'{number}' / 'run'
        shutil.copytree(source, folder)
        corrupt(folder / 'epoch_3.pth', draw)
        before, passed = state_of(folder), []
        cfg = Config({'work_dir': str(folder)})
        assert use_resume(cfg, 'auto', passed)
        assert state_of(folder) == before
        step = int(cfg.load_from[-5])
        found[step] += 1
        if step == 3:  # only the pointer is wrong, or a bit that nobody reads
            assert contents(cfg.load_from) == last, f'{number}: {corrupt.__name__}'
        else:
            assert corrupt is not pointer
            assert corrupt is missing or any('epoch_3.pth' in text for text in passed)
        assert passed or step == 3
        shutil.rmtree(folder.parent)
    print(f'{RUNS} corruptions: {found[2]} went on from the checkpoint before, {found[3]} from the last, unharmed')
    assert found[2] > RUNS / 2


@pytest.mark.parametrize('corrupt', [truncated, flipped, replaced, pointer])
def test_a_run_that_passes_over_a_checkpoint_ends_as_if_nothing_had_happened(run, tmp_path, corrupt):
    source, _ = run
    folder = tmp_path / 'run'
    shutil.copytree(source, folder)
    corrupt(folder / 'epoch_3.pth', random.Random(1))
    cfg = Config(toy_config(folder, epochs=4, max_keep_ckpts=3))
    assert use_resume(cfg, 'auto')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert_same(trained_state(runner), trained_state(train(tmp_path / 'whole', epochs=4)))
    assert sorted(path.name for path in folder.glob('*.pth')) == ['epoch_2.pth', 'epoch_3.pth', 'epoch_4.pth']


def test_with_none_whole_the_error_lists_what_was_tried(run, tmp_path):
    source, _ = run
    folder = tmp_path / 'run'
    shutil.copytree(source, folder)
    for path in folder.glob('*.pth'):
        os.truncate(path, 100)
    for resume in ('auto', 'latest'):
        with pytest.raises(ValueError, match=r'epoch_3\.pth.*epoch_[12]\.pth.*epoch_[12]\.pth'):
            use_resume(Config({'work_dir': str(folder)}), resume)
    with pytest.raises(ValueError, match=r'epoch_2\.pth'):
        use_resume(Config({'work_dir': str(folder)}), str(folder / 'epoch_2.pth'))
