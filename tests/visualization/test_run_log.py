"""What is read from a work directory, across sessions, runs and damage."""

import pytest
import torch
from visualization.work_dirs import losses, write_session

from randsac_mm.visualization.run_log import read_run


def test_a_resumed_run_is_joined_by_step(tmp_path):
    probe = {'probe/knn': 31.5, 'step': 2}
    lost = losses((30, 3), (40, 2), (50, 1))
    write_session(tmp_path, '20261121_010000', [*losses((10, 5), (20, 4)), *lost, probe], origin='{"command": "x"}')
    write_session(tmp_path, '20261121_020000', losses((30, 3.5), (40, 2)), resumed=20)
    write_session(tmp_path, '20261121_030000', [], resumed=40)
    run = read_run(tmp_path)
    assert run.scalars['loss'] == {10: 5, 20: 4, 30: 3.5, 40: 2}
    assert run.scalars['probe/knn'] == {2: 31.5}
    assert not {'epoch', 'iter', 'step'} & run.scalars.keys()
    assert [session[1:] for session in run.sessions] == [(None, {'command': 'x'}), (20, {}), (40, {})]
    assert run.config == tmp_path / '20261121_030000' / 'vis_data' / 'config.py'
    assert (run.checkpoint, run.meta, run.notes) == (None, {}, [])


def test_a_run_that_began_anew_is_not_mixed_with_the_one_before(tmp_path):
    write_session(tmp_path, '20261121_010000', losses((10, 5), (20, 4)))
    write_session(tmp_path, '20261121_020000', losses((10, 9)))
    run = read_run(tmp_path)
    assert run.scalars['loss'] == {10: 9}
    assert '20261121_010000' in run.notes[0]
    # The checkpoint names the run that made it.
    torch.save({'state_dict': {}, 'meta': {'experiment_name': 'a_20261121_010000'}}, tmp_path / 'epoch_3.pth')
    for run in (read_run(tmp_path), read_run(tmp_path, tmp_path / 'epoch_3.pth')):
        assert run.scalars['loss'] == {10: 5, 20: 4}
        assert run.checkpoint == tmp_path / 'epoch_3.pth'
        assert run.config.parent.parent.name == '20261121_010000'
        assert '20261121_020000' in run.notes[0]


def test_damage_is_left_out_and_counted(tmp_path):
    lines = [*losses((10, 5)), '{"loss": 4, "st', '{"loss": NaN, "step": 30}', '{"loss": 2, "step": 40}']
    write_session(tmp_path, '20261121_010000', lines)
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK no checkpoint')
    run = read_run(tmp_path)
    assert run.scalars['loss'] == {10: 5, 40: 2}
    assert run.meta == {}
    assert 'scalars.json: 2 ' in run.notes[0]


def test_what_is_no_work_directory(tmp_path):
    for folder in (tmp_path / 'none', tmp_path):
        with pytest.raises(FileNotFoundError, match=folder.name):
            read_run(folder)
    (tmp_path / 'my_config.py').write_text('a = 1')
    assert read_run(tmp_path).config == tmp_path / 'my_config.py'
