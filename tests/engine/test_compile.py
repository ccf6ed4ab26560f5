"""Contract: one config line compiles a run, and leaves everything else as it was."""

import copy
import types
from unittest import mock

import pytest
import torch
from builders import PATCH, build, config
from engine.toy_engine import Wrapper
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from randsac_mm.engine import CompileHook, compile_model
from randsac_mm.engine import compile as compile_module
from randsac_mm.models import RandSACViT

pytestmark = pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor that is not a leaf')  # torch.compile's


def runner_of(model):
    return types.SimpleNamespace(model=model, logger=mock.Mock(), iter=0, optim_wrapper=None)


def loss_of(model, seed=4, batch=3):
    torch.manual_seed(seed)
    images = torch.randn(batch, 2, 4 * PATCH, 6 * PATCH)
    return model.loss(images, **model.data_preprocessor.draw(images))['loss']


@pytest.mark.slow
@pytest.mark.parametrize(('batch', 'least'), [(3, 1), (16, 9)], ids=['whole-batch', 'groups'])
def test_serializations_and_features_compile_nothing_more(batch, least):
    """Other images and serializations run the same code, once for each pair of lengths; features are no part of it."""
    model = build(config(dict(type='BlobPartition', hierarchy=3)))
    graphs, lengths = [], set()
    compile_model(model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward)
    compiled = model.compiled_loss
    model.compiled_loss = lambda *args: lengths.add(args[3:]) or compiled(*args)
    for seed in range(8):
        loss_of(model, seed, batch)
    images = torch.randn(3, 2, 4 * PATCH, 6 * PATCH)
    model.extract_feat(images)
    model.reconstruct(images)
    assert len(graphs) == len(lengths) >= least, 'a graph for each serialization, or a graph that broke'


def test_what_is_compiled():
    """The loss; layers in distributed training and of others; but two streams never call a layer's forward."""
    model = build(config())
    assert compile_model(model, backend='eager') == ['loss']
    assert copy.deepcopy(model).compiled_loss is None, 'a copy must not run code with the parameters of this model'
    assert len(compile_model(Wrapper(build(config())), backend='eager')) == 5
    assert compile_model(Wrapper(build(config(neck=None))), backend='eager') == ['loss']
    vit = nn.ModuleDict({'backbone': RandSACViT(arch='deit-tiny', img_size=32)})
    assert compile_model(vit, backend='eager') == [f'backbone.layers.{i}' for i in range(12)]
    with pytest.raises(ValueError, match='Linear'):
        compile_model(nn.Linear(2, 3))


def test_without_a_compiler_the_run_continues(monkeypatch):
    monkeypatch.setattr(compile_module.shutil, 'which', lambda name: None)
    runner = runner_of(build(config()))
    CompileHook().before_train(runner)
    assert runner.model.compiled_loss is None
    assert 'g++' in runner.logger.warning.call_args[0][0]


@pytest.mark.slow
@pytest.mark.parametrize(('enabled', 'warnings'), [(True, 1), (False, 0)])
def test_compiling_in_the_middle_of_a_run_is_noticed_once(monkeypatch, enabled, warnings):
    graphs = iter([3, 4, 5, 5, 6, 7])  # asked from the fifth step on
    monkeypatch.setattr(compile_module, 'compiled_graphs', lambda: next(graphs))
    runner, hook = runner_of(build(config())), CompileHook(enabled)
    hook.before_train(runner)
    assert (runner.model.compiled_loss is not None) == enabled
    for runner.iter in range(10):
        hook.after_train_iter(runner, runner.iter)
    texts = [call.args[0] for call in runner.logger.warning.call_args_list]
    assert ['Step 6 ' in text for text in texts] == [True] * warnings


@pytest.mark.slow
def test_a_compiled_run_of_a_config(root, tmp_path):
    """Nothing is compiled after the first steps, and the checkpoint is an ordinary one."""
    cfg = Config.fromfile(root / 'configs/smoke/randsac_vit_digits.py')
    cfg.work_dir = str(tmp_path)
    cfg.model.backbone.arch.num_layers = cfg.model.neck.encoder_layers = 2
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)
    cfg.param_scheduler = []
    cfg.default_hooks.update(compile=dict(type='CompileHook'))
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=9)
    runner = Runner.from_cfg(cfg)
    keys = list(runner.model.state_dict())
    runner.train()
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Compiled: loss' in text
    assert 'compiled anew' not in text
    assert list(torch.load(tmp_path / 'iter_9.pth', weights_only=True)['state_dict']) == keys
