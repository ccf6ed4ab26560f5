"""Contract: one config line compiles a run, and leaves everything else as it was."""

import contextlib
import copy
import math
import types
from unittest import mock

import pytest
import torch
from builders import PATCH, build, config
from engine.toy_engine import Interrupted, Wrapper, toy_config
from mmengine.config import Config
from mmengine.runner import Runner
from torch import nn

from randsac_mm.engine import CompileHook, compile_model
from randsac_mm.engine import compile as compile_module
from randsac_mm.engine.compile import estimate_compiling
from randsac_mm.models import RandSACViT

pytestmark = pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor that is not a leaf')  # torch.compile's


def runner_of(model, steps=100, batch=2):
    loader = types.SimpleNamespace(batch_sampler=types.SimpleNamespace(batch_size=batch))
    return types.SimpleNamespace(
        model=model, logger=mock.Mock(), iter=0, max_iters=steps, optim_wrapper=None, train_dataloader=loader
    )


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


# Layers, parameters and tokens of a batch; steps of the paper's recipe, and of a morning on a laptop.
VIT_B_256, VIT_S_64, VIT_T_512 = (18, 143e6, 128 * 256), (16, 31e6, 196 * 64), (15, 7.3e6, 64 * 512)


@pytest.mark.parametrize(
    ('device', 'bfloat16', 'sizes', 'options', 'seconds', 'pays_after'),
    [
        ('cuda', True, VIT_B_256, {}, (40, 50), (1_200, 2_000)),  # measured: 45 s, and 30 ms a step
        ('cuda', True, VIT_T_512, {'replays': True}, (30, 45), (5_000, 8_000)),
        ('cpu', False, (18, 143e6, 128 * 4), {'threads': 2}, (40, 50), (500, 1_500)),  # 46 s, and 2 to 6 % of 1.4 s
        ('cpu', True, (18, 143e6, 128 * 4), {'threads': 2}, (40, 60), (150, 400)),  # 55 s, and 0.19 s a step
        ('cpu', False, VIT_S_64, {'threads': 1}, (70, 100), (100, 300)),
        ('npu', True, VIT_B_256, {}, (40, 50), (1_200, 2_000)),
    ],
)
def test_the_estimate_agrees_with_what_was_measured(device, bfloat16, sizes, options, seconds, pays_after):
    cost, saved = estimate_compiling(device, bfloat16, *sizes, **options)
    assert seconds[0] <= cost <= seconds[1]
    assert pays_after[0] <= cost / saved <= pays_after[1]


def test_more_threads_save_less():
    costs = [estimate_compiling('cpu', False, *VIT_S_64, threads) for threads in (1, 2, 32)]
    assert costs[0][0] > costs[1][0] == costs[2][0]
    assert costs[0][1] > costs[1][1] > costs[2][1] > 0
    assert len({estimate_compiling('cuda', False, *VIT_S_64, threads) for threads in (1, 2, 32)}) == 1


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled, without the compiler."""
    found = []
    monkeypatch.setattr(compile_module, 'compile_model', lambda model, mode: found.append(mode) or ['loss'])
    return found


def test_only_a_run_that_is_long_enough_is_compiled(compiled):
    model = build(config())
    seconds, saved = compile_module._estimate(runner_of(model), False)
    enough = math.ceil(seconds / saved)
    for steps, done in ((enough - 1, 0), (enough + 9, 10), (enough + 1, 0)):
        runner, hook = runner_of(model, steps), CompileHook()
        runner.iter = done
        hook.before_train(runner)
        assert hook.enabled is (steps - done > enough)
        (text,) = [call.args[0] for call in runner.logger.info.call_args_list]
        assert f'{steps - done:,} steps' in text
        assert (f'after about {enough:,} of' in text) == hook.enabled
    assert compiled == [None]


def test_a_larger_batch_and_a_larger_image_pay_earlier():
    saved = [
        compile_module._estimate(runner_of(model, batch=batch), False)[1]
        for model in (build(config()), build(config(dict(type='PatchPartition'), grid=(8, 6))))
        for batch in (2, 4)
    ]
    assert saved[1] == 2 * saved[0]
    assert saved[2] == pytest.approx(2 * saved[0], rel=0.05)


@pytest.mark.parametrize('enabled', [True, False])
def test_the_config_may_say_whether(compiled, enabled):
    hook = CompileHook(enabled)
    hook.before_train(runner_of(build(config()), steps=3))
    assert compiled == [None] * enabled


@pytest.mark.parametrize(('begun', 'saved', 'then'), [(True, 0.2, 0.2), (False, 0.1, 1.0)])
def test_a_resumed_run_goes_on_as_it_began(tmp_path, monkeypatch, compiled, begun, saved, then):
    """It rounds as its first steps did, though by the rule the last four of eight would not pay, or would."""
    monkeypatch.setattr(compile_module, '_missing_compiler', lambda device: None)
    monkeypatch.setattr(compile_module, 'compiled_graphs', lambda: 0)

    def run(saved, **options):
        monkeypatch.setattr(compile_module, '_estimate', lambda runner, replays: (1.0, saved))
        cfg = toy_config(tmp_path, epochs=2)
        cfg['default_hooks']['compile'] = dict(type='CompileHook')
        runner = Runner.from_cfg(Config({**cfg, **options}))
        with contextlib.suppress(Interrupted):
            runner.train()
        return next(hook.enabled for hook in runner.hooks if isinstance(hook, CompileHook))

    assert run(saved, custom_hooks=[dict(type='Interrupt', iteration=5)]) is begun
    resumed = run(then, resume=True, load_from=str(tmp_path / 'epoch_1.pth'))
    assert resumed is begun


def test_without_a_compiler_the_run_continues(monkeypatch):
    monkeypatch.setattr(compile_module.shutil, 'which', lambda name: None)
    runner = runner_of(build(config()))
    hook = CompileHook(True)
    hook.before_train(runner)
    assert runner.model.compiled_loss is None
    assert hook.enabled is False, 'the checkpoint names what was done'
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
    cfg.default_hooks.update(compile=dict(type='CompileHook', enabled=True))
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=9)
    runner = Runner.from_cfg(cfg)
    keys = list(runner.model.state_dict())
    runner.train()
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert 'Compiled: loss' in text
    assert 'compiled anew' not in text
    assert list(torch.load(tmp_path / 'iter_9.pth', weights_only=True)['state_dict']) == keys
