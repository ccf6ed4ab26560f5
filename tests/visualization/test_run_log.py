"""What a work directory says, across sessions, runs and damage."""

import pytest
import torch
from visualization.work_dirs import losses, write_session

from randsac_mm.visualization.run_log import read_run


def test_a_resumed_run_is_joined_by_step(tmp_path):
    probe = {'probe/knn': 31.5, 'step': 2}
    write_session(tmp_path, '20261121_010000', [*losses((10, 5), (20, 4), (30, 3)), probe], origin='{"command": "x"}')
    write_session(tmp_path, '20261121_020000', losses((30, 3.5), (40, 2)), resumed=20)
    write_session(tmp_path, '20261121_030000', [], resumed=40)
    run = read_run(tmp_path)
    assert run.scalars['loss'] == ([10, 20, 30, 40], [5, 4, 3.5, 2])
    assert run.scalars['probe/knn'] == ([2], [31.5])
    assert not {'epoch', 'iter', 'step'} & run.scalars.keys()
    first, second, third = run.sessions
    assert (first.first, first.last, first.resumed, first.origin) == (10, 30, None, {'command': 'x'})
    assert (second.resumed, third.resumed, third.first) == (20, 40, None)
    assert first.environment == {'Python': '3.11.7 (main)', 'GPU 0,1': 'NVIDIA H200', 'PyTorch': '2.11.0', 'seed': '7'}
    assert run.config == tmp_path / '20261121_030000' / 'vis_data' / 'config.py'
    assert (run.checkpoint, run.meta, run.notes) == (None, {}, [])


def test_a_run_that_began_anew_is_not_mixed_with_the_one_before(tmp_path):
    write_session(tmp_path, '20261121_010000', losses((10, 5), (20, 4)))
    write_session(tmp_path, '20261121_020000', losses((10, 9)))
    run = read_run(tmp_path)
    assert run.scalars['loss'] == ([10], [9])
    assert run.notes == [f'{tmp_path} holds another run as well, which is not shown: 20261121_010000']
    # The checkpoint says who made it.
    torch.save({'state_dict': {}, 'meta': {'experiment_name': 'a_20261121_010000'}}, tmp_path / 'epoch_3.pth')
    for run in (read_run(tmp_path), read_run(tmp_path, tmp_path / 'epoch_3.pth')):
        assert run.scalars['loss'] == ([10, 20], [5, 4])
        assert run.checkpoint == tmp_path / 'epoch_3.pth'
        assert run.config.parent.parent.name == '20261121_010000'
        assert 'not shown: 20261121_020000' in run.notes[0]


def test_damage_is_left_out_and_named(tmp_path):
    lines = [*losses((10, 5)), '{"loss": 4, "st', '[1]', '{"loss": NaN, "step": 30}']
    write_session(tmp_path, '20261121_010000', lines, origin='{')
    (tmp_path / 'epoch_1.pth').write_bytes(b'PK no checkpoint')
    run = read_run(tmp_path)
    assert run.scalars['loss'][0] == [10, 30]
    assert run.meta == {}
    broken, origin = sorted(run.notes, reverse=True)
    assert 'scalars.json: 2 line(s) could not be read' in broken
    assert 'origin.json could not be read' in origin


def test_what_is_no_work_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no work directory'):
        read_run(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match=r'holds no log .* no config and no checkpoint'):
        read_run(tmp_path)
    (tmp_path / 'my_config.py').write_text('a = 1')
    assert read_run(tmp_path).config == tmp_path / 'my_config.py'
