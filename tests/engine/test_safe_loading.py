"""Contract: mmengine's loaders read what they read before, by our reader: old runs, devices, other schemes, pickles."""

import pickle
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from engine.toy_engine import ToyModel, toy_config
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmengine.runner.checkpoint import _load_checkpoint

from randsac_mm.engine.safe_loading import check_folder, use_safe_reader
from randsac_mm.export.target import save_safetensors
from randsac_mm.transfer.reading import read_checkpoint


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use_safe_reader()


@pytest.mark.parametrize('hook', ['CheckpointHook', 'ResumableCheckpointHook'])
def test_a_run_of_mmengines_own_hook_is_resumed(hook):
    config = toy_config('old', epochs=1)
    config['default_hooks']['checkpoint'] = {'type': 'CheckpointHook', 'interval': 1}
    config['train_cfg']['max_epochs'] = 2
    Runner(**config).train()
    with pytest.raises(pickle.UnpicklingError, match='numpy'):
        torch.load('old/epoch_1.pth', weights_only=True)
    config = toy_config('new', epochs=1)
    config['default_hooks']['checkpoint'] = {'type': hook, 'interval': 1}
    config['train_cfg']['max_epochs'] = 2
    runner = Runner(**{**config, 'load_from': 'old/epoch_1.pth', 'resume': True})
    runner.train()
    assert runner.iter == 8
    losses = runner.message_hub.get_scalar('train/loss')
    assert isinstance(losses, HistoryBuffer)
    assert len(losses.data[0]) == 8, 'those before and after'


def test_tensors_go_to_the_device_and_keep_versions():
    torch.save({'state_dict': torch.nn.BatchNorm1d(2).state_dict(), 'more': [(torch.ones(2),)]}, 'a.pth')
    read = _load_checkpoint('a.pth', map_location='meta')
    assert read['more'][0][0].device.type == read['state_dict']['weight'].device.type == 'meta'
    assert read['state_dict']._metadata['']['version'] == 2


def test_schemes_of_mmengine(monkeypatch):
    torch.save({'state_dict': {'backbone.w': torch.ones(2)}}, 'a.pth')
    monkeypatch.setattr('mmengine.runner.checkpoint.get_mmcls_models', dict)
    for scheme in ('torchvision://no', 'mmcls://no', 's3://bucket/a.pth', 'pavi://a'):
        with pytest.raises(ValueError, match=scheme):
            _load_checkpoint(scheme)
    monkeypatch.setitem(use_safe_reader.__globals__['_TABLES'], 'mmcls', lambda: {'a': 'a.pth'})
    assert list(_load_checkpoint('mmcls://a')['state_dict']) == ['w']


def test_pickled_annotations_are_data(tmp_path):
    mmengine.dump([{'box': np.arange(4), 'label': 1}], 'a.pkl')
    assert mmengine.load('a.pkl')[0]['box'].tolist() == [0, 1, 2, 3]
    mmengine.dump([Path('a'), ToyModel], 'b.pkl')
    with pytest.raises(ValueError, match=r'ToyModel.*json'):
        mmengine.load('b.pkl')


def test_files_of_deepspeed():
    torch.save({'module': {'w': torch.ones(1)}}, 'mp_rank_00_model_states.pt')
    check_folder('.')
    torch.save({'module': ToyModel()}, 'zero_pp_rank_0.pt')
    with pytest.raises(ValueError, match=r'zero_pp_rank_0\.pt .*ToyModel'):
        check_folder('.')


@pytest.mark.parametrize('number', range(20))
def test_a_flipped_bit_in_exported_weights_is_refused(number):
    save_safetensors({'a': torch.randn(9, 5), 'b': torch.randn(30)}, Path('a.safetensors'), {})
    content = bytearray(Path('a.safetensors').read_bytes())
    assert read_checkpoint('a.safetensors')
    content[-1 - number * 15] ^= 1 << number % 8
    Path('a.safetensors').write_bytes(content)
    with pytest.raises(ValueError, match=r'a\.safetensors .*checksum'):
        read_checkpoint('a.safetensors')


@pytest.mark.parametrize('out', ['b.pth', 'b.safetensors'])
def test_convert_checkpoint_asks_and_converts(run_tool, monkeypatch, out):
    torch.save({'model': ToyModel().state_dict(), 'extra': ToyModel()}, 'a.pth')
    with pytest.raises(ValueError, match=r'convert_checkpoint\.py a\.pth'):
        read_checkpoint('a.pth')
    monkeypatch.setattr('sys.stdin.isatty', lambda: True, raising=False)
    for answer in ('no', 'y'):
        monkeypatch.setattr('builtins.input', lambda answer=answer: answer)
        with pytest.raises(SystemExit, match=r'a\.pth was not read'):
            run_tool('convert_checkpoint.py', 'a.pth', '--out', out)
    monkeypatch.setattr('builtins.input', lambda: 'yes')
    run_tool('convert_checkpoint.py', 'a.pth', '--out', out)
    read = read_checkpoint(out)
    assert set(read.get('model', read)) == {'layer.weight', 'layer.bias'}
