"""The scripts themselves, in processes of their own: two CPU processes train, are stopped, and resume."""

import json
from functools import partial

import pytest
import torch
from engine.toy_engine import toy_config
from mmengine.config import Config
from processes import ROOT, run


@pytest.mark.slow
def test_two_processes_train_stop_resume_and_test(tmp_path, run_tool):
    config = toy_config(tmp_path, epochs=3, val=True)
    del config['work_dir'], config['experiment_name']
    config['randomness'] = {'seed': 5, 'diff_rank_seed': True}
    config['custom_imports'] = {'imports': ['engine.toy_engine']}
    config['custom_hooks'] = [{'type': 'Interrupt', 'iteration': None}]
    config['test_dataloader'], config['test_cfg'] = config['val_dataloader'], {}
    config['test_evaluator'] = {'type': 'ToyScores'}
    file = tmp_path / 'toy.py'
    Config(config).dump(file)
    import_toys = dict(paths=[ROOT / 'tests'])
    train = partial(run, 'bash', ROOT / 'tools' / 'dist_train.sh', file, 2, '--work-dir', **import_toys)

    with pytest.raises(SystemExit, match=f'train.py: error: --resume: there is no checkpoint in {tmp_path / "parts"}'):
        run_tool('train.py', file, '--work-dir', tmp_path / 'parts', '--resume')
    train(tmp_path / 'whole')
    stop = ('--cfg-options', 'custom_hooks.0.iteration=3')  # 2 batches an epoch and process: in the second epoch
    log = train(tmp_path / 'parts', '--resume', 'auto', *stop, ok=False)
    assert 'Interrupted' in log
    assert 'so this is a new run from the start' in log
    moved = (tmp_path / 'parts').rename(tmp_path / 'moved')
    assert [p.name for p in moved.glob('*.pth')] == ['epoch_1.pth']
    train(moved, '--resume')

    whole, resumed = (torch.load(folder / 'epoch_3.pth', weights_only=True) for folder in (tmp_path / 'whole', moved))
    for key, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][key]), key
    states = [meta['random_states'] for meta in (whole['meta'], resumed['meta'])]
    assert [len(s) for s in states] == [2, 2]
    for rank in range(2):
        assert torch.equal(states[0][rank]['torch'], states[1][rank]['torch'])
    assert not torch.equal(states[0][0]['torch'], states[0][1]['torch'])

    test = ('bash', ROOT / 'tools' / 'dist_test.sh', file, moved / 'epoch_3.pth', 2)
    run(*test, '--work-dir', tmp_path / 'test', '--out', tmp_path / 'metrics.json', **import_toys)
    assert json.loads((tmp_path / 'metrics.json').read_text()) == {'acc': 0.5}
