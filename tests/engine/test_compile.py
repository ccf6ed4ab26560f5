"""Contract: one config line compiles a run, and leaves everything else as it was."""

import contextlib
import copy
import math
import os
import pickle
import subprocess
import sys
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
@pytest.mark.parametrize('whole', [True, False], ids=['whole', 'layers'])
@pytest.mark.parametrize(('batch', 'least'), [(3, 1), (16, 9)], ids=['whole-batch', 'groups'])
def test_serializations_and_features_compile_nothing_more(batch, least, whole):
    """Other images and serializations run the same code, once for each pair of lengths; features are no part of it.

    An encoder layer sees only the first of the two lengths, a decoder layer both; all layers of a kind share the code.
    """
    model = build(config(dict(type='BlobPartition', hierarchy=3)))
    graphs, lengths = [], set()
    compile_model(model, backend=lambda graph, inputs: graphs.append(graph) or graph.forward, whole=whole)
    compiled = model.compiled_loss or model.compute_loss
    model.compiled_loss = lambda *args: lengths.add(args[3:]) or compiled(*args)
    for seed in range(8):
        loss_of(model, seed, batch)
    images = torch.randn(3, 2, 4 * PATCH, 6 * PATCH)
    model.extract_feat(images)
    model.reconstruct(images)
    assert len(lengths) >= least
    sources = {args[0][0] if args else None for args in lengths}
    expected = len(lengths) + (0 if whole else len(sources))
    assert len(graphs) == expected, 'a graph for each serialization or layer, or a graph that broke'


def test_what_is_compiled():
    """Layers, on a CPU and in distributed training; else the loss, and that of two streams, which call no layer."""
    model = build(config())
    layers = [*(f'backbone.layers.{i}' for i in range(3)), *(f'neck.layers.{i}' for i in range(2))]
    for candidate in (model, Wrapper(build(config()))):
        assert compile_model(candidate, backend='eager') == layers
    assert compile_model(build(config()), backend='eager', whole=True) == ['loss']
    assert compile_model(build(config()).to('meta'), backend='eager') == ['loss']
    for two_streams in (build(config(neck=None)), Wrapper(build(config(neck=None)))):
        assert compile_model(two_streams, backend='eager') == ['loss']
    vit = nn.ModuleDict({'backbone': RandSACViT(arch='deit-tiny', img_size=32)})
    assert compile_model(vit, backend='eager') == [f'backbone.layers.{i}' for i in range(12)]
    with pytest.raises(ValueError, match='Linear'):
        compile_model(nn.Linear(2, 3))


@pytest.mark.parametrize('whole', [True, False])
def test_a_copy_runs_no_code_with_the_parameters_of_another_model(whole):
    model = build(config())
    expected = loss_of(model).item()
    compile_model(model, backend='eager', whole=whole)
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert [loss_of(twin).item() for twin in copies] == [expected] * 2
    assert loss_of(model).item() != expected


SECOND_PROCESS = """
import sys, torch
sys.path.insert(0, 'tests')
from builders import build, config
from engine.test_compile import loss_of
from randsac_mm.engine import compile_model
torch.manual_seed(0)
model = build(config())
compile_model(model)
loss_of(model).backward()
from torch._dynamo.utils import counters
print(*(counters['aot_autograd'][f'autograd_cache_{name}'] for name in ('hit', 'miss', 'bypass')), sep=',')
print(*(counters['inductor'][f'fxgraph_cache_{name}'] for name in ('miss', 'bypass')), sep=',')
"""


@pytest.mark.slow
def test_a_second_process_compiles_nothing(root, tmp_path):
    """Nothing of the step bypasses Inductor's cache, which is shared by processes and runs."""

    def run():
        command = [sys.executable, '-c', SECOND_PROCESS]
        env = {**os.environ, 'TORCHINDUCTOR_CACHE_DIR': str(tmp_path), 'PYTHONPATH': str(root)}
        lines = subprocess.run(command, env=env, cwd=root, check=True, capture_output=True, text=True).stdout.split()
        return [[int(number) for number in line.split(',')] for line in lines[-2:]]

    assert run() == [[0, 2, 0], [4, 0]]  # an encoder and a decoder layer, each forward and backward
    assert run() == [[2, 0, 0], [0, 0]]


# Layers of code, parameters and tokens of a batch; steps of the paper's recipe, and of a morning on a laptop.
VIT_B_256, VIT_T_512 = (18, 143e6, 128 * 256), (15, 7.3e6, 64 * 512)
VIT_B_4, VIT_S_64 = (2, 135e6, 128 * 4), (2, 31e6, 196 * 64)  # on a CPU with AVX-512, by layers


@pytest.mark.parametrize(
    ('device', 'bfloat16', 'sizes', 'options', 'seconds', 'pays_after'),
    [
        ('cuda', True, VIT_B_256, {}, (40, 50), (1_200, 2_000)),  # measured: 45 s, and 30 ms a step
        ('cuda', True, VIT_T_512, {'replays': True}, (30, 45), (5_000, 8_000)),
        ('avx512', False, VIT_B_4, {'threads': 2}, (15, 40), (300, 1_500)),  # 34 s, and 2 to 6 % of 1.4 s
        ('avx512', True, VIT_B_4, {'threads': 2}, (15, 40), (80, 300)),  # 0.19 s a step
        ('avx512', False, VIT_S_64, {'threads': 1}, (40, 60), (80, 300)),  # 45 s
        ('npu', True, VIT_B_256, {}, (40, 50), (1_200, 2_000)),
    ],
)
def test_the_estimate_agrees_with_what_was_measured(device, bfloat16, sizes, options, seconds, pays_after):
    cost, saved = estimate_compiling(device, bfloat16, *sizes, **options)
    assert seconds[0] <= cost <= seconds[1]
    assert pays_after[0] <= cost / saved <= pays_after[1]


def test_more_threads_save_less():
    costs = [estimate_compiling('avx512', False, *VIT_S_64, threads) for threads in (1, 2, 32)]
    assert costs[0][0] > costs[1][0] == costs[2][0]
    assert costs[0][1] > costs[1][1] > costs[2][1] > 0
    assert len({estimate_compiling('cuda', False, *VIT_S_64, threads) for threads in (1, 2, 32)}) == 1


@pytest.fixture
def avx512(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX512')


@pytest.fixture
def compiled(monkeypatch):
    """What was compiled, without the compiler."""
    found = []
    monkeypatch.setattr(compile_module, 'compile_model', lambda model, mode: found.append(mode) or ['loss'])
    return found


@pytest.mark.usefixtures('avx512')
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
        assert text.startswith('Compiled') == hook.enabled
    assert compiled == [None]


def test_without_avx512_a_run_is_compiled_only_on_request(monkeypatch, compiled):
    """There nothing was gained by it, however long the run."""
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: 'AVX2')
    for enabled in (None, True):
        hook = CompileHook(enabled)
        hook.before_train(runner_of(build(config()), steps=10**9))
        assert hook.enabled is bool(enabled)
    assert compiled == [None]


def test_layers_that_share_their_code_cost_once():
    cost = {
        name: compile_module._estimate(runner_of(build(config(neck=neck))), False)[0]
        for name, neck in dict(two=dict(num_layers=2), five=dict(num_layers=5), whole=None).items()
    }
    assert cost['two'] == cost['five'] < cost['whole'], 'an encoder and a decoder layer; three layers of the baseline'


@pytest.mark.usefixtures('avx512')
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
    assert 'run_layer' not in vars(runner.model)
    assert hook.enabled is False, 'the checkpoint names what was done'
    assert 'g++' in runner.logger.warning.call_args[0][0]


@pytest.mark.slow
@pytest.mark.parametrize(('enabled', 'warnings'), [(True, 1), (False, 0)])
def test_compiling_in_the_middle_of_a_run_is_noticed_once(monkeypatch, enabled, warnings):
    graphs = iter([3, 4, 5, 5, 6, 7])  # asked from the fifth step on
    monkeypatch.setattr(compile_module, 'compiled_graphs', lambda: next(graphs))
    runner, hook = runner_of(build(config())), CompileHook(enabled)
    hook.before_train(runner)
    assert ('run_layer' in vars(runner.model)) == enabled
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
    assert 'Compiled: 4 modules' in text
    assert 'compiled anew' not in text
    assert list(torch.load(tmp_path / 'iter_9.pth', weights_only=True)['state_dict']) == keys
