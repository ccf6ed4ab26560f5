"""Contract: without an accelerator SyncBN becomes BN everywhere in the model, is reported, and nothing else changes."""

import pytest
import torch
from engine.toy_engine import toy_config
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn

from randsac_mm.engine import batch_norm, launch
from randsac_mm.engine.batch_norm import replace_sync_bn


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    monkeypatch.setattr(batch_norm, 'get_device', lambda: 'cpu')


def model():
    return dict(
        type='EncoderDecoder',
        backbone=dict(type='ResNet', norm_cfg=dict(type='SyncBN', requires_grad=True, eps=1e-3)),
        neck=[dict(type='ViTPyramid', norm_cfg=dict(type='MMSyncBN')), dict(type='FPN', norm_cfg=None)],
        heads=(dict(type='A', deep=[dict(norm=dict(type='mmseg.SyncBN'))]), dict(type='B', norm_cfg=dict(type='GN'))),
    )


def test_every_synchronised_norm_is_replaced_and_named():
    cfg = Config(dict(model=model()))
    note = replace_sync_bn(cfg)
    assert cfg.model.backbone.norm_cfg == dict(type='BN', requires_grad=True, eps=1e-3)
    assert cfg.model.neck[0].norm_cfg == dict(type='BN')
    assert cfg.model.heads[0].deep[0].norm == dict(type='BN')
    assert cfg.model.heads[1].norm_cfg == dict(type='GN')
    assert '1 x SyncBN, 1 x MMSyncBN, 1 x mmseg.SyncBN in the config became BN' in note
    assert replace_sync_bn(cfg) is None


def test_the_pyramids_default_is_replaced_too():
    cfg = Config(dict(model=dict(neck=dict(type='ViTPyramid', embed_dims=8))))
    assert '1 x SyncBN' in replace_sync_bn(cfg)
    norms = [m for m in MODELS.build(cfg.model.neck).modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert [type(norm) for norm in norms] == [nn.BatchNorm2d]


def test_weights_are_the_same():
    def state(cfg):
        return {key: value.shape for key, value in MODELS.build(cfg.model).state_dict().items()}

    cfg = Config(dict(model=dict(type='ViTPyramid', embed_dims=8)))
    before = state(cfg)
    replace_sync_bn(cfg)
    assert state(cfg) == before


def test_mmengines_switches_are_turned_off():
    cfg = Config(dict(model=dict(type='A'), sync_bn='torch', strategy=dict(type='DDPStrategy', sync_bn='mmcv')))
    note = replace_sync_bn(cfg)
    assert "1 x sync_bn='torch', 1 x sync_bn='mmcv'" in note
    assert cfg.sync_bn is None
    assert cfg.strategy.sync_bn is None


@pytest.mark.parametrize('content', [dict(), dict(model=nn.Linear(2, 2)), dict(model=dict(norm_cfg=dict(type='BN')))])
def test_nothing_to_do(content):
    cfg = Config()
    cfg._cfg_dict.update(content)
    assert replace_sync_bn(cfg) is None


def test_nothing_happens_with_an_accelerator(monkeypatch):
    monkeypatch.setattr(batch_norm, 'get_device', lambda: 'cuda')
    cfg = Config(dict(model=model(), sync_bn='torch'))
    assert replace_sync_bn(cfg) is None
    assert cfg.to_dict() == Config(dict(model=model(), sync_bn='torch')).to_dict()


def test_the_runner_logs_it(tmp_path, monkeypatch):
    cfg = Config(toy_config(tmp_path, epochs=1))
    cfg.sync_bn = 'torch'
    runner = launch.build_runner(cfg)
    log = next(tmp_path.rglob('*.log')).read_text()
    assert "No accelerator: batch norm is not synchronised (1 x sync_bn='torch' in the config became BN)" in log
    assert runner.cfg.sync_bn is None
    assert torch.isfinite(next(runner.model.parameters())).all()
