"""A checkpoint is complete or absent, at any moment, and contains nothing but tensors and plain values."""

import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from engine.toy_engine import assert_same, last_checkpoint, train, trained_state
from mmengine.fileio import LocalBackend

from randsac_mm.engine import ResumableCheckpointHook


def test_every_checkpoint_loads_with_weights_only(tmp_path):
    runner = train(tmp_path, epochs=2, val=True, save_best='acc')
    files = sorted(tmp_path.glob('*.pth'))
    assert [f.name for f in files] == ['best_acc_epoch_2.pth', 'epoch_1.pth', 'epoch_2.pth']
    for file in files:
        checkpoint = torch.load(file, weights_only=True)
        assert {'meta', 'state_dict', 'message_hub'} <= checkpoint.keys()
        assert checkpoint['state_dict'].keys() == runner.model.state_dict().keys()
    assert len(checkpoint['meta']['random_states']) == 1


def test_mistakes_in_options_are_refused():
    with pytest.raises(ValueError, match='max_keep_ckpts=1'):
        ResumableCheckpointHook(max_keep_ckpts=1)
    with pytest.raises(ValueError, match='max_keep_checkpoints'):
        ResumableCheckpointHook(max_keep_checkpoints=3)


def _die_while_writing(work_dir):
    def put(self, data, path, put=LocalBackend.put):
        if 'epoch_3' in str(path):
            put(self, bytes(data)[: len(data) // 2], path)
            os.kill(os.getpid(), signal.SIGKILL)
        return put(self, data, path)

    LocalBackend.put = put
    train(work_dir, epochs=4, max_keep_ckpts=2)


@pytest.mark.filterwarnings('ignore:This process .* is multi-threaded:DeprecationWarning')
def test_kill_while_writing_leaves_a_folder_to_resume(tmp_path):
    process = multiprocessing.get_context('fork').Process(target=_die_while_writing, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.glob('*.pth*')) == ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth.partial']
    resumed = train(tmp_path, epochs=4, resume=last_checkpoint(tmp_path), max_keep_ckpts=2)
    assert sorted(p.name for p in tmp_path.glob('*.pth*')) == ['epoch_3.pth', 'epoch_4.pth']
    assert_same(trained_state(resumed), trained_state(train(tmp_path / 'whole', epochs=4)))


def test_a_checkpoint_is_deleted_after_the_pointer_has_moved_on(tmp_path, monkeypatch):
    def remove(self, path, remove=LocalBackend.remove):
        pointed = last_checkpoint(tmp_path)
        assert pointed.name > Path(path).name
        torch.load(pointed, weights_only=True)
        removed.append(Path(path).name)
        remove(self, path)

    removed = []
    monkeypatch.setattr(LocalBackend, 'remove', remove)
    train(tmp_path, epochs=4, max_keep_ckpts=2)
    assert removed == ['epoch_1.pth', 'epoch_2.pth']


def test_best_checkpoint_is_replaced_by_a_better_one(tmp_path):
    # Scores 0.5, 0.7, 0.6, 0.9
    train(tmp_path, epochs=4, stop=13, val=True, save_best='acc', max_keep_ckpts=2)
    assert [p.name for p in tmp_path.glob('best*')] == ['best_acc_epoch_2.pth']
    moved = tmp_path.parent / 'moved'
    shutil.copytree(tmp_path, moved)
    options = {'epochs': 4, 'val': True, 'save_best': 'acc', 'max_keep_ckpts': 2}
    runner = train(moved, resume=moved / 'epoch_3.pth', **options)  # the scores start at 0.5 again
    assert [p.name for p in moved.glob('best*')] == ['best_acc_epoch_2.pth']
    assert runner.message_hub.get_info('best_score') == 0.7
    assert [p.name for p in tmp_path.glob('best*')] == ['best_acc_epoch_2.pth'], "another folder's file was deleted"


def test_better_checkpoint_deletes_its_predecessor_only_afterwards(tmp_path, monkeypatch):
    def remove(self, path, remove=LocalBackend.remove):
        names.append((Path(path).name[-5], sorted(p.name[-5] for p in tmp_path.glob('best*'))))
        remove(self, path)

    names = []
    monkeypatch.setattr(LocalBackend, 'remove', remove)
    train(tmp_path, epochs=4, val=True, save_best='acc')
    assert names == [('1', ['1', '2']), ('2', ['2', '4'])]
