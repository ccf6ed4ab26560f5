"""Contract: without an accelerator processes meet through gloo, and SyncBN becomes BN everywhere in the model."""

import pytest
import torch
from engine.toy_engine import toy_config
from mmengine.config import Config
from mmengine.registry import MODELS

from randsac_mm.engine import distributed, launch, prepare_cpu_processes, replace_sync_bn


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cpu')
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def test_cpu_processes_are_connected_by_gloo_and_wrapped_without_device(monkeypatch):
    variables = {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '0'}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    cfg = Config({'launcher': 'none'})
    prepare_cpu_processes(cfg)
    assert 'model_wrapper_cfg' not in cfg
    cfg = Config({'launcher': 'pytorch', 'model_wrapper_cfg': {'find_unused_parameters': True}})
    prepare_cpu_processes(cfg)
    assert torch.distributed.get_backend() == 'gloo'
    assert cfg.model_wrapper_cfg.find_unused_parameters
    assert cfg.model_wrapper_cfg.device_ids is None


@pytest.mark.parametrize(('launcher', 'lack'), [('slurm', 'a GPU'), ('pytorch', 'RANK, LOCAL_RANK, WORLD_SIZE')])
def test_other_ways_to_start_cpu_processes_are_refused(launcher, lack):
    with pytest.raises(ValueError, match=f'--launcher {launcher} needs {lack}'):
        prepare_cpu_processes(Config({'launcher': launcher}))


def model():
    return dict(
        type='EncoderDecoder',
        backbone=dict(type='ResNet', norm_cfg=dict(type='SyncBN', requires_grad=True, eps=1e-3)),
        neck=[dict(type='ViTPyramid', norm_cfg=dict(type='MMSyncBN')), dict(type='FPN', norm_cfg=None)],
        heads=(dict(type='A', deep=[dict(norm=dict(type='mmseg.SyncBN'))]), dict(type='B', norm_cfg=dict(type='GN'))),
    )


def test_every_synchronised_norm_is_replaced_and_named():
    cfg = Config(dict(model=model(), sync_bn='torch'))
    note = replace_sync_bn(cfg)
    assert cfg.model.backbone.norm_cfg == dict(type='BN', requires_grad=True, eps=1e-3)
    assert cfg.model.neck[0].norm_cfg == dict(type='BN')
    assert cfg.model.heads[0].deep[0].norm == dict(type='BN')
    assert cfg.model.heads[1].norm_cfg == dict(type='GN')
    assert cfg.sync_bn is None
    assert "SyncBN, MMSyncBN, mmseg.SyncBN, sync_bn='torch'" in note
    assert replace_sync_bn(cfg) is None


def test_the_pyramids_default_is_replaced_too_and_the_weights_are_the_same():
    def shapes(cfg):
        return {key: value.shape for key, value in MODELS.build(cfg.model).state_dict().items()}

    cfg = Config(dict(model=dict(type='ViTPyramid', embed_dims=8)))
    before = shapes(cfg)
    assert replace_sync_bn(cfg)
    assert cfg.model.norm_cfg.type == 'BN'
    assert shapes(cfg) == before


def test_nothing_is_replaced_with_an_accelerator(monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    cfg = Config(dict(model=model(), sync_bn='torch'))
    before = cfg.to_dict()
    assert replace_sync_bn(cfg) is None
    assert cfg.to_dict() == before


def test_the_runner_logs_it(tmp_path):
    cfg = Config(toy_config(tmp_path, epochs=1))
    cfg.sync_bn = 'torch'
    runner = launch.build_runner(cfg)
    assert "sync_bn='torch'" in next(tmp_path.rglob('*.log')).read_text()
    assert runner.cfg.sync_bn is None
