"""The scripts that start several processes, and what one of them refuses."""

import json

import pytest
from engine.toy_engine import toy_config, train
from mmengine.config import Config
from processes import ROOT, run


def test_there_must_be_a_checkpoint_to_resume_from(tmp_path, run_tool):
    Config(toy_config(tmp_path, epochs=1)).dump(tmp_path / 'toy.py')
    with pytest.raises(SystemExit, match=f'train.py: error: --resume: there is no checkpoint in {tmp_path / "parts"}'):
        run_tool('train.py', tmp_path / 'toy.py', '--work-dir', tmp_path / 'parts', '--resume')


@pytest.mark.slow
def test_two_processes_test_a_checkpoint(tmp_path):
    train(tmp_path / 'run', epochs=1)
    config = toy_config(tmp_path, epochs=1, val=True)
    del config['work_dir'], config['experiment_name']
    config['custom_imports'] = {'imports': ['engine.toy_engine']}
    config.update(test_dataloader=config['val_dataloader'], test_cfg={}, test_evaluator={'type': 'ToyScores'})
    Config(config).dump(tmp_path / 'toy.py')
    test = ('bash', ROOT / 'tools' / 'dist_test.sh', tmp_path / 'toy.py', tmp_path / 'run' / 'epoch_1.pth', 2)
    run(*test, '--work-dir', tmp_path / 'test', '--out', tmp_path / 'metrics.json', paths=[ROOT / 'tests'])
    assert json.loads((tmp_path / 'metrics.json').read_text()) == {'acc': 0.5}
