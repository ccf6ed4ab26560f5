"""Contract: a run continues from its newest whole checkpoint, looking changes nothing, and a folder has one run.

The corruptions of every kind are in ``tests/reliability/test_corruption.py``.
"""

import multiprocessing
import os
import signal
import time

import pytest
import torch
from mmengine.config import Config

from randsac_mm.engine.disk import write_checksums
from randsac_mm.engine.work_dir import claim_work_dir, find_checkpoint, find_run, find_whole, use_resume


def save(path, step, date='1', **changes):
    content = {
        'meta': {'epoch': step, 'iter': step, 'time': date},
        'state_dict': {},
        'optimizer': {},
        'message_hub': {},
    }
    torch.save({**content, **changes}, path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A run of three checkpoints."""
    (tmp_path / 'run').mkdir()
    for step in (2, 9, 10):
        save(tmp_path / 'run' / f'epoch_{step}.pth', step, date=f'2026010{step}' if step < 10 else '20260110')
    return tmp_path / 'run'


def test_the_checkpoint_that_is_named_comes_first_and_in_a_moved_folder(folder, tmp_path):
    (folder / 'last_checkpoint').write_text(f'{folder}/epoch_9.pth\n')
    assert find_whole(folder) == folder / 'epoch_9.pth'
    moved = folder.rename(tmp_path / 'moved')
    assert find_whole(moved) == moved / 'epoch_9.pth'


def test_the_option_out_dir_is_followed_but_no_pointer_to_another_run(folder, tmp_path):
    (tmp_path / 'out' / 'run').mkdir(parents=True)
    out = (folder / 'epoch_2.pth').rename(tmp_path / 'out' / 'run' / 'epoch_2.pth')
    (folder / 'last_checkpoint').write_text(str(out))
    assert find_whole(folder) == out
    (tmp_path / 'other').mkdir()
    (folder / 'last_checkpoint').write_text(str(save(tmp_path / 'other' / 'epoch_11.pth', 11)))
    passed = []
    assert find_whole(folder, passed) == folder / 'epoch_10.pth'
    assert len(passed) == 1
    assert 'other/epoch_11.pth' in passed[0]


def test_without_a_pointer_the_last_by_date_counts_then_by_step(folder):
    assert find_whole(folder) == folder / 'epoch_10.pth', '10 is more than 9'
    save(folder / 'epoch_2.pth', 2, date='20260301')  # a new run in the folder of an old one
    assert find_whole(folder) == folder / 'epoch_2.pth'
    save(folder / 'interrupted.pth', 3, date='20260301')
    assert find_whole(folder) == folder / 'interrupted.pth'
    save(folder / 'best_acc_epoch_12.pth', 12, date='20260501')
    assert find_whole(folder) == folder / 'interrupted.pth', 'the best has no optimiser state'


@pytest.mark.parametrize('lacking', ['meta', 'state_dict', 'optimizer', 'message_hub'])
@pytest.mark.parametrize('value', [None, [1]])
def test_a_checkpoint_that_lacks_a_part_is_passed_over_and_refused_by_name(folder, lacking, value):
    save(folder / 'epoch_10.pth', 10, **{lacking: value})
    passed = []
    assert find_whole(folder, passed) == folder / 'epoch_9.pth'
    assert [f'epoch_10.pth has no {lacking}' in text for text in passed] == [True]
    with pytest.raises(ValueError, match=f'epoch_10.pth has no {lacking}'):
        use_resume(Config({'work_dir': '.'}), str(folder / 'epoch_10.pth'))


def test_reports_find_a_checkpoint_without_reading_it(folder):
    for path in folder.glob('*.pth'):
        path.write_bytes(b'')
    assert find_checkpoint(folder) == folder / 'epoch_10.pth'
    (folder / 'last_checkpoint').write_text('/gone/epoch_2.pth')
    assert find_checkpoint(folder) == folder / 'epoch_2.pth'
    assert find_checkpoint(folder / 'empty') is None


def test_folders_have_checksums(folder):
    part = folder / 'iter_7.pth' / 'rank_0.distcp'
    part.parent.mkdir()
    part.write_bytes(b'weights')
    for path in folder.glob('epoch*'):
        path.unlink()
    with pytest.raises(ValueError, match=r'no checkpoint in .*iter_7.pth is no complete checkpoint'):
        use_resume(Config({'work_dir': str(folder)}), 'auto')
    write_checksums(part.parent, {'iter': 7})
    assert find_whole(folder) == folder / 'iter_7.pth'
    part.write_bytes(b'weighty')
    assert find_whole(folder, passed := []) is None
    assert 'wrong checksum of rank_0.distcp' in passed[0]
    part.unlink()
    (part.parent / 'checksums.json').unlink()
    (part.parent / '.metadata').touch()  # FSDP's, of an earlier version
    assert find_whole(folder) == folder / 'iter_7.pth'


def test_resume(folder):
    for resume in ('latest', 'auto', str(folder / 'epoch_10.pth')):
        cfg = Config({'work_dir': str(folder)})
        assert use_resume(cfg, resume)
        assert (cfg.resume, cfg.load_from) == (True, str(folder / 'epoch_10.pth'))
    cfg = Config({'work_dir': str(folder / 'new')})
    assert use_resume(cfg, str(folder)), 'the work directory of another run'
    assert cfg.load_from == str(folder / 'epoch_10.pth')


def test_resume_without_a_checkpoint(tmp_path):
    cfg = Config({'work_dir': str(tmp_path), 'load_from': 'weights.pth'})
    for resume, where in (('latest', tmp_path), ('epoch_9.pth', 'epoch_9.pth')):
        with pytest.raises(FileNotFoundError, match=f'--resume.*{where}.*--resume auto'):
            use_resume(cfg, resume)
    assert not use_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'weights.pth')


def test_a_run_is_its_last_config_and_checkpoint(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match='no config'):
        find_run(folder)
    (folder / 'mine.py').touch()
    assert find_run(folder) == (folder / 'mine.py', folder / 'epoch_10.pth')
    for date in ('20260109_000000', '20260110_000000'):
        (folder / date / 'vis_data').mkdir(parents=True)
        (folder / date / 'vis_data/config.py').touch()
    assert find_run(folder / 'epoch_9.pth') == (folder / '20260110_000000/vis_data/config.py', folder / 'epoch_9.pth')
    for checkpoint in folder.glob('*.pth'):
        checkpoint.write_bytes(b'')
    with pytest.raises(ValueError, match=r'whole.*epoch_2'):
        find_run(folder)
    with pytest.raises(FileNotFoundError, match='no run'):
        find_run(tmp_path / 'none')


def _run(folder, started, end):
    with claim_work_dir(folder):
        child = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))  # as a worker
        child.start()
        started.put(child.pid)
        end.wait(60)
        child.kill()


@pytest.fixture
def other_run(tmp_path):
    """Another process that writes to the folder, and ends when told to."""
    context = multiprocessing.get_context('fork')
    started, end = context.Queue(), context.Event()
    process = context.Process(target=_run, args=(tmp_path, started, end))
    process.start()
    process.worker = started.get(timeout=60)
    process.finish = end.set
    yield process
    process.kill()
    os.kill(process.worker, signal.SIGKILL)


@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded:DeprecationWarning')
def test_one_run_in_a_folder(tmp_path, other_run, monkeypatch):
    with (
        pytest.raises(ValueError, match=rf'another run .* process {other_run.pid} on \S+ since 2'),
        claim_work_dir(tmp_path),
    ):
        pass
    monkeypatch.setenv('RANK', '1')  # the first process of a run locks for all
    with claim_work_dir(tmp_path):
        monkeypatch.setenv('RANK', '0')
    os.kill(other_run.pid, signal.SIGKILL)
    other_run.join()
    assert (tmp_path / 'run.lock').read_text(), 'stale'
    with claim_work_dir(tmp_path):  # although its worker still runs
        os.kill(other_run.worker, 0)
    with claim_work_dir(tmp_path):
        assert str(os.getpid()) in (tmp_path / 'run.lock').read_text()
    assert not (tmp_path / 'run.lock').read_text()
