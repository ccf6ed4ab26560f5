"""Contract: one config line compiles a run or chooses its kernels, says so, and leaves everything else as it was."""

import copy
import logging
import platform
import re
import subprocess
import sys
import textwrap
import types

import pytest
import torch
from builders import PATCH, build, config
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from randsac_mm.engine import CompileHook, KernelHook, compile_model, memory
from randsac_mm.engine import compile as compile_module
from randsac_mm.engine.kernel_choice import attention_shapes, linear_shapes
from randsac_mm.kernels import AttentionShape, LinearShape, attention_backend, linear_backend
from randsac_mm.models import RandSACViT

pytestmark = pytest.mark.filterwarnings('ignore:The .grad attribute of a Tensor that is not a leaf')  # torch.compile's


class Log(list):
    """Stands for a logger."""

    def info(self, message):
        self.append(message)

    warning = info


class Wrapper(nn.Module):
    """Stands for DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def runner_of(model, **wrapper):
    return types.SimpleNamespace(
        model=model,
        logger=Log(),
        hooks=[],
        iter=0,
        optim_wrapper=types.SimpleNamespace(**wrapper),
        train_dataloader=types.SimpleNamespace(batch_size=5),
    )


def loss_of(model):
    torch.manual_seed(4)
    images = torch.randn(3, 2, 4 * PATCH, 6 * PATCH)
    return model.loss(images, **model.data_preprocessor.draw(images))['loss']


# Compiling


def eager(calls):
    """Make a compiler that notes each graph and leaves it as it is."""
    return lambda graph, inputs: calls.append(graph) or graph.forward


@pytest.mark.slow
@pytest.mark.parametrize(('modules', 'graphs'), [('loss', 1), ('layers', None), (['backbone.layers.1', 'neck'], None)])
def test_compiled_model_is_the_same_model(modules, graphs):
    model = build(config())
    keys, expected = list(model.state_dict()), loss_of(model)
    calls = []
    compiled = compile_model(model, modules, backend=eager(calls))
    torch.testing.assert_close(loss_of(model), expected)
    assert calls
    assert graphs is None or len(calls) == graphs
    assert list(model.state_dict()) == keys
    assert len(compiled) == {'loss': 1, 'layers': 5}.get(modules if isinstance(modules, str) else None, 2)
    # A copy, as an exponential average makes one, must not run code that holds the parameters of this model.
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert loss_of(other) != expected


@pytest.mark.slow
def test_serializations_and_features_compile_nothing_more():
    """Fixed shapes: other images and serializations run the same code; features are no part of it."""
    model = build(config(dict(type='BlobPartition', hierarchy=7)))
    calls = []
    compile_model(model, 'loss', backend=eager(calls))
    for seed in range(5):
        torch.manual_seed(seed)
        images = torch.randn(3, 2, 4 * PATCH, 6 * PATCH)
        model.loss(images, **model.data_preprocessor.draw(images))
    model.extract_feat(images)
    model.reconstruct(images)
    assert len(calls) == 1, 'a graph for each serialization, or a graph that broke'


def test_default_is_the_loss_or_the_layers_of_others():
    assert compile_model(build(config()), backend='eager') == ['loss']
    vit = nn.ModuleDict({'backbone': RandSACViT(arch='deit-tiny', img_size=32)})
    assert compile_model(vit, backend='eager') == [f'backbone.layers.{i}' for i in range(12)]


def test_default_in_distributed_training(monkeypatch):
    """Layers, whose gradients can be sent one after the other; but two streams never call a layer's forward."""
    monkeypatch.setattr(compile_module, 'is_model_wrapper', lambda model: isinstance(model, Wrapper))
    assert len(compile_model(Wrapper(build(config())), backend='eager')) == 5
    assert compile_model(Wrapper(build(config(neck=None))), backend='eager') == ['loss']


@pytest.mark.parametrize(
    ('modules', 'message'),
    [
        ('neck', "modules='neck' must be 'auto', 'loss', 'layers' (of which RandSAC has 5) or a list of names"),
        ([], 'modules=[] must be'),
        (['decoder'], "names 'decoder', but RandSAC has data_preprocessor, backbone, neck, head"),
    ],
    ids=str,
)
def test_mistakes_in_modules(modules, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        compile_model(build(config()), modules)


def test_only_randsac_has_that_loss():
    with pytest.raises(ValueError, match="Linear is no RandSAC model: use modules='layers' or names"):
        compile_model(nn.Linear(2, 3), 'loss')


def test_without_a_compiler_the_run_goes_on(monkeypatch):
    monkeypatch.setattr(compile_module.shutil, 'which', lambda name: None)
    model, runner = build(config()), None
    runner = runner_of(model)
    CompileHook().before_train(runner)
    assert model.compiled_loss is None
    assert 'is not compiled: there is no C++ compiler: install g++' in runner.logger[0]


def test_switched_off(monkeypatch):
    graphs = iter(range(100))  # somebody else compiles in every step
    monkeypatch.setattr(compile_module, 'compiled_graphs', lambda: next(graphs))
    runner, hook = runner_of(build(config())), CompileHook(enabled=False)
    hook.before_train(runner)
    for runner.iter in range(10):
        hook.after_train_iter(runner, runner.iter)
    assert runner.model.compiled_loss is None
    assert runner.logger == []


def test_compiling_in_the_middle_of_a_run_is_noticed_once(monkeypatch):
    graphs = iter([3, 4, 5, 5, 6, 7])  # asked from the fifth step on
    monkeypatch.setattr(compile_module, 'compiled_graphs', lambda: next(graphs))
    runner, hook = runner_of(build(config())), CompileHook()
    hook.before_train(runner)
    runner.logger.clear()
    for runner.iter in range(10):
        hook.after_train_iter(runner, runner.iter)
    assert len(runner.logger) == 1
    assert 'Step 6 was compiled anew' in runner.logger[0]
    assert 'drop_last=True' in runner.logger[0]


def test_cuda_graphs_and_accumulated_gradients():
    with pytest.raises(ValueError, match="cuda_graphs='yes' must be True, False or 'auto'"):
        CompileHook(cuda_graphs='yes')
    runner = runner_of(build(config()), _accumulative_counts=2)
    with pytest.raises(ValueError, match='cuda_graphs=True cannot be used with accumulative_counts > 1'):
        CompileHook(cuda_graphs=True).before_train(runner)
    CompileHook().before_train(runner)
    assert 'CUDA graphs' not in runner.logger[-1]


# Choosing kernels


def test_shapes_are_those_of_the_model():
    squares = build(config(dict(type='SquarePartition', hierarchy=6)))
    assert attention_shapes(squares, 5) == [AttentionShape(5, 3, 20, 20, 4), AttentionShape(5, 5, 20, 20, 4)]
    blobs = build(config(dict(type='BlobPartition', hierarchy=7)))
    assert attention_shapes(blobs, 5)[0] == AttentionShape(5, 3, 23, 23, 4, shared=False)
    shapes = linear_shapes(squares, 5)
    assert LinearShape(100, 12, 36) in shapes  # the encoder's queries, keys and values
    assert LinearShape(100, 12, 40) in shapes  # the decoder's keys and values
    assert len(shapes) == len(set(shapes))


def test_named_kernels_are_used_until_training_ends(monkeypatch):
    monkeypatch.delenv('RANDSAC_MM_ATTENTION')
    monkeypatch.delenv('RANDSAC_MM_LINEAR')
    runner, hook = runner_of(build(config())), KernelHook(attention='plain', linear='onednn')
    hook.before_train(runner)
    assert (attention_backend(), linear_backend()) == ('plain', 'onednn')
    assert runner.logger[-2:] == ['Kernels: attention: plain (asked for)', 'Kernels: linear: onednn (asked for)']
    hook.after_train(runner)
    assert (attention_backend(), linear_backend()) == ('sdpa', 'torch')


def test_deterministic_runs_use_plain_maths(monkeypatch):
    monkeypatch.delenv('RANDSAC_MM_ATTENTION')
    runner, hook = runner_of(build(config())), KernelHook()
    torch.use_deterministic_algorithms(True)
    try:
        hook.before_train(runner)
        assert attention_backend() == 'plain'
    finally:
        torch.use_deterministic_algorithms(False)
        hook.after_train(runner)


def test_measured_once_and_remembered(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('RANDSAC_MM_ATTENTION')
    monkeypatch.delenv('RANDSAC_MM_LINEAR')
    model = build(config())
    for source in ('measured', 'remembered'):
        runner, hook = runner_of(model), KernelHook()
        hook.before_train(runner)
        hook.after_train(runner)
        assert [source in line for line in runner.logger[-2:]] == [True, True]


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc can be told to keep memory')
def test_freed_memory_is_used_again():
    """No page is asked of the system for what was freed a moment ago; in a fresh process, which stays untouched."""
    code = """
        import resource, runpy, sys
        if sys.argv[1] == 'keep':
            assert runpy.run_path(sys.argv[2])['keep_freed_memory']()
        size = int(sys.argv[3])
        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(4):
                b'x' * size  # freed at once
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults()
        print(faults())
    """
    counts = {}
    for what in ('keep', 'give-back'):
        size = str(2**26)  # 64 MiB: more than glibc keeps by itself
        command = [sys.executable, '-c', textwrap.dedent(code), what, memory.__file__, size]
        counts[what] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert counts['keep'] < 100
    assert counts['give-back'] > 10 * max(counts['keep'], 1)


def test_without_a_compiler_kernels_are_measured_as_they_will_run(monkeypatch, tmp_path):
    """Both hooks at once: nothing is compiled for the measurement either, which would end the run."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    monkeypatch.delenv('RANDSAC_MM_ATTENTION')
    monkeypatch.setattr(compile_module.shutil, 'which', lambda name: None)
    monkeypatch.setattr(torch, 'compile', lambda *_, **__: pytest.fail('something was compiled'))
    runner, hook = runner_of(build(config())), KernelHook()
    runner.hooks = [hook, CompileHook()]
    hook.before_train(runner)
    hook.after_train(runner)
    assert any('attention: ' in line and 'measured' in line for line in runner.logger)


def test_other_models_are_left_alone():
    runner, hook = runner_of(nn.Linear(2, 3)), KernelHook(attention='plain')
    hook.before_train(runner)
    hook.after_train(runner)
    assert attention_backend() == 'sdpa'
    assert runner.logger == []


@pytest.mark.slow
def test_a_compiled_run_of_a_config(root, tmp_path, caplog):
    """Both hooks in a real run: nothing is compiled after the first steps, and the checkpoint is an ordinary one."""
    cfg = Config.fromfile(root / 'configs/smoke/randsac_vit_digits.py')
    cfg.work_dir = str(tmp_path)
    cfg.model.backbone.arch.num_layers = cfg.model.neck.encoder_layers = 2
    cfg.model.neck.num_layers = 1
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)
    cfg.param_scheduler = []
    cfg.default_hooks.compile = dict(type='CompileHook')
    cfg.default_hooks.logger.interval = 3
    cfg.default_hooks.checkpoint = dict(type='ResumableCheckpointHook', by_epoch=False, interval=9, max_keep_ckpts=2)
    init_default_scope('mmpretrain')
    runner = Runner.from_cfg(cfg)
    keys = list(runner.model.state_dict())
    with caplog.at_level(logging.INFO):
        runner.train()
    text = (next(tmp_path.glob('*/*.log'))).read_text()
    assert 'Compiled: loss' in text
    assert 'compiled anew' not in text
    assert list(torch.load(tmp_path / 'iter_9.pth', weights_only=True)['state_dict']) == keys
