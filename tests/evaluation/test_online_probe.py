"""Contract: the online probe scores as its parts do, at the right steps, and training does not change by a bit."""

import copy
import json
import logging
import re
import time
from pathlib import Path

import pytest
import torch
from evaluation.probed_runs import MAE, PROBE, RANDSAC, STEPS, TWO_STREAM, Noisy, Stop, log, run_config, state, train
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from randsac_mm.datasets import Digits
from randsac_mm.engine.launch import find_checkpoint
from randsac_mm.evaluation import (
    OnlineProbeHook,
    extract_features,
    knn_accuracy,
    linear_probe_accuracy,
    online_probe,
)
from randsac_mm.evaluation.labelled_images import choose_stratified
from randsac_mm.evaluation.online_probe import run_on_all_ranks, undisturbed

KNN = dict(PROBE, judges=('knn',))
BETWEEN = dict(KNN, by_epoch=False, interval=3)
slow = pytest.mark.slow
RUNS = {
    'epochs': (KNN, {}),
    'in bfloat16, between accumulated gradients': (BETWEEN, dict(type='AutocastOptimWrapper', accumulative_counts=2)),
    'iterations': (BETWEEN, dict(iters=7)),
    'kNN and linear': (dict(PROBE, by_epoch=False, interval=3), {}),
    'bfloat16 in one part': (BETWEEN, dict(type='AutocastOptimWrapper', modules=['backbone'])),
    'two streams': (BETWEEN, dict(model=TWO_STREAM)),
    'MAE': (BETWEEN, dict(model=MAE)),
}


@pytest.mark.parametrize('name', [pytest.param(name, marks=slow if i > 1 else ()) for i, name in enumerate(RUNS)])
def test_training_with_and_without_the_probe_ends_with_the_same_bits(tmp_path, name):
    hook, options = RUNS[name]
    expected = state(train(tmp_path / 'plain', **options))
    probed = train(tmp_path / 'probed', dict(hook, train=Noisy(), test=Noisy()), **options)
    found = state(probed)
    assert expected.keys() == found.keys()
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert len(log(probed)) >= 3


@slow
def test_the_comparison_notices_lost_random_states_and_modes(tmp_path, monkeypatch):
    expected = state(train(tmp_path / 'plain'))
    probe = dict(BETWEEN, train=Noisy(), test=Noisy())

    def is_noticed(name):
        return not torch.equal(expected['head.proj.weight'], state(train(tmp_path / name, probe))['head.proj.weight'])

    with monkeypatch.context() as patch:
        patch.setattr(online_probe.random_state, 'restore', lambda states: None)
        assert is_noticed('random states')
    with monkeypatch.context() as patch:
        extract = online_probe.extract_features
        patch.setattr(online_probe, 'extract_features', lambda model, *args: [extract(model, *args), model.eval()][0])
        assert is_noticed('modes')


def by_hand(model, accuracy):
    """Evaluate a model on the images that the probe has chosen, step by step."""
    features, labels = [], []
    for split, size in (('train', 101), ('test', 53)):
        digits = Digits(split)
        chosen = choose_stratified(digits.labels.numpy(), size, 0)
        images = (digits.images[chosen].float() - 77.9) / 95.9
        features.append(extract_features(model.backbone, images))
        labels.append(digits.labels[chosen])
    return accuracy(features[0], labels[0], features[1], labels[1])


class Copies(Hook):
    """Keeps a copy of the model as it is before each step."""

    def before_train(self, runner):
        self.models = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.models.append(copy.deepcopy(runner.model))


def test_scores_are_those_of_the_encoder_at_that_step(tmp_path):
    copies = Copies()
    runner = train(tmp_path, PROBE, copies)
    first, middle, last = log(runner)
    assert [entry['step'] for entry in (first, middle, last)] == [0, STEPS, 2 * STEPS]
    for entry, model in ((first, copies.models[0]), (last, runner.model)):
        assert entry['probe/knn'] == pytest.approx(by_hand(model, lambda *data: knn_accuracy(*data, k=7)))
        assert entry['probe/linear'] == pytest.approx(by_hand(model, linear_probe_accuracy))
        assert entry['probe/seconds'] > 0
    assert first['probe/linear'] != last['probe/linear']
    # At the same step as the loss, in the other file of the logger as well, and in the message hub.
    assert [entry['step'] for entry in log(runner, 'loss')][STEPS - 1 :: STEPS] == [STEPS, 2 * STEPS]
    (other,) = Path(runner.log_dir, 'vis_data').glob('[0-9]*.json')
    assert [json.loads(line) for line in other.read_text().splitlines() if 'probe' in line] == [first, middle, last]
    assert runner.message_hub.get_scalar('probe/knn').current() == last['probe/knn']


def test_probe_between_steps_sees_the_model_of_that_step(tmp_path, monkeypatch):
    seen, copies = [], Copies()
    monkeypatch.setattr(online_probe, 'knn_accuracy', lambda *data, k: seen.append(data) or 1.0)
    runner = train(tmp_path, BETWEEN, copies, epochs=1)
    assert [entry['step'] for entry in log(runner)] == [0, 3, 4]
    expected = by_hand(copies.models[3], lambda *data: data)
    assert all(torch.equal(found, part) for found, part in zip(seen[1], expected, strict=True))
    assert not torch.equal(seen[2][0], expected[0])


@pytest.mark.parametrize(
    ('hook', 'options', 'steps'),
    [
        (dict(KNN, interval=2), dict(epochs=3), [0, 8, 12]),
        pytest.param(BETWEEN, dict(iters=7), [0, 3, 6, 7], marks=slow),
        pytest.param(dict(KNN, interval=5), dict(epochs=1), [0, 4], marks=slow),
        pytest.param(dict(BETWEEN, interval=4), {}, [0, 4, 8], marks=slow),
    ],
)
def test_steps(tmp_path, hook, options, steps):
    entries = log(train(tmp_path, hook, **options))
    assert [entry['step'] for entry in entries] == steps
    assert all('probe/linear' not in entry for entry in entries)


@slow
def test_run_that_is_stopped_early_is_probed_at_its_end(tmp_path):
    class Enough(Stop):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            runner.train_loop.stop_training = runner.iter == self.iteration

    runner = train(tmp_path, dict(KNN, interval=3), Enough(STEPS + STEPS - 1), epochs=9)
    assert [entry['step'] for entry in log(runner)] == [0, 2 * STEPS]


@slow
@pytest.mark.parametrize('by_epoch', [True, False])
def test_resumed_run_continues_the_curve(tmp_path, by_epoch):
    hook, options = (KNN, dict(epochs=3)) if by_epoch else (dict(BETWEEN, interval=2), dict(iters=9))
    whole = {entry['step']: entry['probe/knn'] for entry in log(train(tmp_path / 'whole', hook, **options))}
    stopped = Runner(**run_config(tmp_path / 'parts', hook, Stop(6), **options))
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    config = run_config(tmp_path / 'resumed', hook, **options)
    config.update(resume=True, load_from=str(find_checkpoint(tmp_path / 'parts')))
    resumed = Runner(**config)
    resumed.train()
    steps = [[entry['step'] for entry in log(runner)] for runner in (stopped, resumed)]
    assert steps == ([[0, 4], [8, 12]] if by_epoch else [[0, 2, 4, 6], [8, 9]])
    parts = {entry['step']: entry['probe/knn'] for runner in (stopped, resumed) for entry in log(runner)}
    assert parts == whole


@pytest.mark.parametrize(
    ('by_epoch', 'options'),
    [
        (False, dict(epochs=2)),
        pytest.param(False, dict(iters=6), marks=slow),
        pytest.param(True, dict(epochs=2), marks=slow),
    ],
)
def test_time_of_the_probe_is_no_time_of_a_step(tmp_path, monkeypatch, options, by_epoch):
    waited = [0.0]
    for name in ('time', 'perf_counter'):
        clock = getattr(time, name)
        monkeypatch.setattr(f'time.{name}', lambda clock=clock: clock() + waited[0])

    def slow(*data, k):
        waited[0] += 1000
        return 10.0

    monkeypatch.setattr(online_probe, 'knn_accuracy', slow)
    infos = []
    monkeypatch.setattr(logging.Logger, 'info', lambda self, text, *args: infos.append(str(text)))
    runner = train(tmp_path, dict(KNN, by_epoch=by_epoch, interval=1 if by_epoch else 2), **options)
    probes = log(runner)
    assert all(entry['probe/seconds'] >= 1000 for entry in probes)
    for entry in log(runner, 'loss'):
        assert entry['time'] < 50  # a mean of several steps
        assert entry['data_time'] < 50
        assert entry['images_per_s'] > 90 / 500
    assert runner.message_hub.get_info('eta') < 50
    (cost,) = [text for text in infos if 'of this run' in text]
    assert cost.startswith(f'Online probe: {len(probes)} probes took {len(probes)}000.')
    assert float(re.search(r's, ([\d.]+)% of the', cost)[1]) > 90
    assert 'failed' not in cost


@slow
def test_failure_after_the_first_probe_is_a_warning(tmp_path, monkeypatch):
    runner = Runner(**run_config(tmp_path, BETWEEN))
    messages = []
    monkeypatch.setattr(runner.logger, 'warning', messages.append)
    calls = []

    def fail_once(x, *data, k):
        calls.append(x)
        return knn_accuracy(x * torch.nan if len(calls) == 2 else x, *data, k=k)

    monkeypatch.setattr(online_probe, 'knn_accuracy', fail_once)
    runner.train()
    assert [entry['step'] for entry in log(runner)] == [0, 6, 8]
    (text,) = [text for text in messages if 'Online probe' in text]
    assert 'iteration 3 failed: ValueError: 101 of 101' in text


def test_failure_of_the_first_probe_ends_the_run_before_any_step(tmp_path):
    colour = copy.deepcopy(RANDSAC)
    colour['backbone']['in_channels'] = colour['head']['in_channels'] = 3
    runner = Runner(**run_config(tmp_path, KNN, model=colour))
    with pytest.raises(ValueError, match=r'\(101, 1, 8, 8\)'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        *[('interval', value) for value in (0, 1.5, True)],
        *[('judges', value) for value in ('knn', (), ('knn', 'svm'))],
        ('max_train', 0),
        ('max_test', 0),
        ('k', 0),
        ('batch_size', -1),
    ],
)
def test_bad_arguments_are_refused_at_once(name, value):
    arguments = {**PROBE, name: value}
    arguments.pop('type')
    with pytest.raises(ValueError, match=re.escape(f'{name}={value!r}')):
        OnlineProbeHook(**arguments)


@pytest.mark.parametrize('name', ['vit-t_cifar10', 'vit-s_cifar10'])
def test_base_config_joins_a_recipe(root, tmp_path, name):
    configs = root / 'configs'
    bases = [str(configs / 'randsac' / f'{name}.py'), str(configs / '_base_' / 'online_probe_cifar10.py')]
    (tmp_path / 'my_run.py').write_text(f'_base_ = {bases}')
    cfg = Config.fromfile(tmp_path / 'my_run.py')
    (hook,) = map(HOOKS.build, cfg.custom_hooks)
    assert type(hook) is OnlineProbeHook
    assert (hook.interval, hook.by_epoch, hook.judges) == (10, True, ('knn', 'linear'))
    assert cfg.train_cfg.max_epochs % hook.interval == 0


class MMDeepSpeedEngineWrapper(torch.nn.Linear):
    """Stands for a model whose weights are spread over processes."""


@pytest.mark.parametrize(
    ('change', 'options', 'model', 'message'),
    [
        ({}, dict(iters=3), None, 'by_epoch=False'),
        (dict(max_train=6), {}, None, '6 images, fewer than k=7'),
        (dict(train=Noisy(), k=41), {}, None, '40 images, fewer than k=41'),
        ({}, {}, torch.nn.Linear(2, 2), 'Linear has no backbone'),
        ({}, {}, MMDeepSpeedEngineWrapper(2, 2), 'MMDeepSpeedEngineWrapper'),
    ],
)
def test_what_cannot_be_probed_is_refused_before_any_step(tmp_path, change, options, model, message):
    runner = Runner(**run_config(tmp_path, {**KNN, **change}, **options))
    if model is not None:
        runner.model = model
        (hook,) = (hook for hook in runner.hooks if isinstance(hook, OnlineProbeHook))
        with pytest.raises(ValueError, match=message):
            hook.before_train(runner)
        return
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


# ---- parts -----------------------------------------------------------------------------------------------------------


@slow
def test_compiled_code_is_set_aside_and_not_compiled_again():
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(RANDSAC)
    seen, layer = [], model.backbone.layers[0]

    def backend(graph, inputs):
        seen.append(inputs[0].shape)
        return graph

    layer.compile(backend=backend, dynamic=False)
    layer(torch.zeros(2, 15, 16))
    compiled = layer._compiled_call_impl
    with undisturbed(model):
        extract_features(model.backbone, torch.zeros(5, 1, 8, 8))
    assert layer._compiled_call_impl is compiled
    layer(torch.zeros(2, 15, 16))
    assert len(seen) == 1
    layer(torch.zeros(3, 15, 16))
    assert len(seen) == 2, 'the layer is still a compiled one'


def fail():
    raise KeyError('here')


def test_failure_of_another_rank_is_one_here_too(monkeypatch):
    assert run_on_all_ranks(lambda: 3) == [3]
    monkeypatch.setattr(online_probe, 'all_gather_object', lambda own: [own, ('OSError: gone', None)])
    with pytest.raises(RuntimeError, match=r'rank 1: OSError: gone'):
        run_on_all_ranks(lambda: 3)
    with pytest.raises(KeyError, match='here'):
        run_on_all_ranks(fail)
