"""Contract: the online probe scores as its parts do, at the right steps, and training does not change by a bit."""

import copy
import json
import time
from pathlib import Path

import pytest
import torch
from engine.toy_engine import Interrupt, Interrupted, assert_same, trained_state
from evaluation.probed_runs import PROBE, RANDSAC, STEPS, TWO_STREAM, Noisy, log, run_config, train
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS
from processes import run

from randsac_mm.datasets import Digits
from randsac_mm.engine import distributed
from randsac_mm.engine.distributed import on_first_rank
from randsac_mm.engine.work_dir import find_checkpoint
from randsac_mm.evaluation import OnlineProbeHook, extract_features, knn_accuracy, linear_probe_accuracy, online_probe
from randsac_mm.evaluation.labelled_images import choose_stratified
from randsac_mm.evaluation.online_probe import undisturbed

slow = pytest.mark.slow
RUNS = {
    'float32': {},
    'in bfloat16, between accumulated gradients': dict(type='AutocastOptimWrapper', accumulative_counts=3),
    'bfloat16 in one part': dict(type='AutocastOptimWrapper', modules=['backbone']),
    'two streams': dict(model=TWO_STREAM),
}


@pytest.mark.slow
@pytest.mark.usefixtures('has_bfloat16')
@pytest.mark.parametrize('name', [pytest.param(name, marks=slow if i > 1 else ()) for i, name in enumerate(RUNS)])
def test_training_with_and_without_the_probe_ends_with_the_same_bits(tmp_path, name):
    expected = trained_state(train(tmp_path / 'plain', **RUNS[name]))
    probed = train(tmp_path / 'probed', dict(PROBE, train=Noisy(), test=Noisy()), **RUNS[name])
    assert_same(trained_state(probed), expected)
    assert len(log(probed)) == 3


@slow
def test_the_comparison_notices_lost_random_states(tmp_path, monkeypatch):
    expected = trained_state(train(tmp_path / 'plain'))
    monkeypatch.setattr(online_probe.random_state, 'restore', lambda states: None)
    found = trained_state(train(tmp_path / 'probed', dict(PROBE, train=Noisy(), test=Noisy())))
    assert not torch.equal(expected['head.proj.weight'], found['head.proj.weight'])


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


@pytest.mark.slow
def test_scores_are_those_of_the_encoder_at_that_step(tmp_path):
    copies = Copies()
    runner = train(tmp_path, PROBE, copies)
    entries = log(runner)
    assert [entry['step'] for entry in entries] == [0, STEPS, 2 * STEPS]
    for entry, model in zip(entries, (copies.models[0], copies.models[STEPS], runner.model), strict=True):
        assert entry['probe/knn'] == pytest.approx(by_hand(model, knn_accuracy))
        assert entry['probe/linear'] == pytest.approx(by_hand(model, linear_probe_accuracy))
        assert entry['probe/seconds'] > 0
    assert entries[0]['probe/linear'] != entries[2]['probe/linear']
    # At the same step as the loss, in the other file of the logger as well, and in the message hub.
    assert [entry['step'] for entry in log(runner, 'loss')][STEPS - 1 :: STEPS] == [STEPS, 2 * STEPS]
    (other,) = Path(runner.log_dir, 'vis_data').glob('[0-9]*.json')
    assert [json.loads(line) for line in other.read_text().splitlines() if 'probe' in line] == entries
    assert runner.message_hub.get_scalar('probe/knn').current() == entries[2]['probe/knn']


class Enough(Interrupt):
    """Ends a run after an iteration."""

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        runner.train_loop.stop_training = runner.iter == self.iteration


@pytest.mark.parametrize(
    ('interval', 'epochs', 'hooks', 'steps'),
    [
        (2, 3, [], [0, 8, 12]),
        pytest.param(5, 1, [], [0, 4], marks=slow),
        pytest.param(3, 9, [Enough(2 * STEPS - 1)], [0, 2 * STEPS], marks=slow),
    ],
)
def test_steps(tmp_path, interval, epochs, hooks, steps):
    runner = train(tmp_path, dict(PROBE, interval=interval), *hooks, epochs=epochs)
    assert [entry['step'] for entry in log(runner)] == steps


@slow
def test_loops_of_iterations_are_probed_by_iteration(tmp_path):
    config = run_config(tmp_path, dict(PROBE, interval=3, by_epoch=False))
    config['train_cfg'] = dict(by_epoch=False, max_iters=7)
    config['default_hooks']['checkpoint'].update(by_epoch=False, interval=6)
    runner = Runner(**config)
    runner.train()
    assert [entry['step'] for entry in log(runner)] == [0, 3, 6, 7]
    time.sleep(1)  # mmengine names runs by the second
    runner = Runner(**{**config, 'experiment_name': 'again', 'resume': True, 'load_from': str(tmp_path / 'iter_6.pth')})
    runner.train()
    assert [entry['step'] for entry in log(runner)] == [7]


def test_resumed_run_continues_the_curve(tmp_path):
    whole = [(entry['step'], entry['probe/knn']) for entry in log(train(tmp_path / 'whole', PROBE, epochs=3))]
    stopped = Runner(**run_config(tmp_path / 'parts', PROBE, Interrupt(6), epochs=3))
    with pytest.raises(Interrupted):
        stopped.train()
    config = run_config(tmp_path / 'resumed', PROBE, epochs=3)
    config.update(resume=True, load_from=str(find_checkpoint(tmp_path / 'parts')))
    resumed = Runner(**config)
    resumed.train()
    first, second = ([(entry['step'], entry['probe/knn']) for entry in log(runner)] for runner in (stopped, resumed))
    assert ([step for step, _ in first], [step for step, _ in second]) == ([0, 4], [8, 12])
    assert first + second == whole


def test_time_of_the_probe_is_no_time_of_a_step(tmp_path, monkeypatch):
    waited = [0.0]
    for name in ('time', 'perf_counter'):
        clock = getattr(time, name)
        monkeypatch.setattr(f'time.{name}', lambda clock=clock: clock() + waited[0])
    evaluate = online_probe.evaluate_features

    def evaluate_slowly(*data):
        waited[0] += 1000
        return evaluate(*data)

    monkeypatch.setattr(online_probe, 'evaluate_features', evaluate_slowly)
    runner = train(tmp_path, PROBE)
    assert all(entry['probe/seconds'] >= 1000 for entry in log(runner))
    for entry in log(runner, 'loss'):
        assert entry['time'] < 50  # a mean of several steps
        assert entry['data_time'] < 50
        assert entry['images_per_s'] > 90 / 500
    assert runner.message_hub.get_info('eta') < 50


@slow
def test_failure_after_the_first_probe_is_a_warning(tmp_path, monkeypatch):
    runner = Runner(**run_config(tmp_path, PROBE))
    messages, calls, evaluate = [], [], online_probe.evaluate_features
    monkeypatch.setattr(runner.logger, 'warning', messages.append)

    def fail_once(x, *data):
        calls.append(x)
        return evaluate(x * torch.nan if len(calls) == 2 else x, *data)

    monkeypatch.setattr(online_probe, 'evaluate_features', fail_once)
    runner.train()
    assert [entry['step'] for entry in log(runner)] == [0, 8]
    (text,) = [text for text in messages if 'Online probe' in text]
    assert 'iteration 4 failed: ValueError: 101 of 101' in text


COLOUR = copy.deepcopy(RANDSAC)
COLOUR['backbone']['in_channels'] = 3


@pytest.mark.parametrize(
    ('change', 'options', 'message'),
    [
        (dict(max_train=19), {}, 'k=20 .* 19'),
        (dict(max_train=6), {}, r'\[6, 7, 8, 9\].* 6 training'),
        (dict(max_test=0), {}, 'test of OnlineProbeHook.* 0 images'),
        ({}, dict(model=COLOUR), r'\(101, 1, 8, 8\)'),
    ],
)
def test_what_cannot_be_probed_is_refused_before_any_step(tmp_path, change, options, message):
    runner = Runner(**run_config(tmp_path, {**PROBE, **change}, **options))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(('other', 'message'), [('ant bee dog', "'cat', 'dog'"), ('ant cat bee', 'order')])
def test_train_and_test_of_different_classes_are_refused(tmp_path, other, message):
    train, test = Noisy(), Noisy()
    train.metainfo, test.metainfo = dict(classes=('ant', 'bee', 'cat')), dict(classes=other.split())
    runner = Runner(**run_config(tmp_path, dict(PROBE, train=train, test=test)))
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


def test_intervals_loops_and_wrappers_that_cannot_be_probed_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match='interval=0'):
        OnlineProbeHook({}, {}, interval=0)
    config = run_config(tmp_path, PROBE)
    config.update(train_cfg=dict(by_epoch=False, max_iters=3))
    with pytest.raises(ValueError, match='by_epoch=False'):
        Runner(**config).train()
    monkeypatch.setattr(online_probe, 'is_model_wrapper', lambda model: True)  # as FSDP, which spreads the weights
    with pytest.raises(ValueError, match=r'RandSAC spreads .* DistributedDataParallel'):
        train(tmp_path, PROBE)


def test_base_config_joins_a_recipe(root, tmp_path):
    bases = [str(root / 'configs' / name) for name in ('randsac/vit-t_cifar10.py', '_base_/online_probe_cifar10.py')]
    (tmp_path / 'my_run.py').write_text(f'_base_ = {bases}')
    cfg = Config.fromfile(tmp_path / 'my_run.py')
    (hook,) = map(HOOKS.build, cfg.custom_hooks)
    assert type(hook) is OnlineProbeHook
    assert cfg.train_cfg.max_epochs % hook.interval == 0


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


@slow
def test_curve_rises_and_tensorboard_shows_it(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = copy.deepcopy(RANDSAC)
    arch = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=128)
    model['backbone'].update(arch=arch, drop_path_rate=0.0)
    model['neck'].update(embed_dims=32, num_heads=4, feedforward_channels=128)
    probe = dict(PROBE, interval=10, max_train=None, max_test=None)
    config = run_config(tmp_path, probe, model=model, epochs=30)
    data = dict(batch_size=64, drop_last=True, dataset=dict(type='Digits', split='train', with_label=False))
    config['train_dataloader'].update(data)
    config['default_hooks'].update(logger=dict(type='LoggerHook', interval=22), checkpoint=None)
    config['visualizer'] = dict(type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])
    runner = Runner(**config)
    runner.train()
    events = EventAccumulator(str(Path(runner.log_dir, 'vis_data')))
    events.Reload()
    for key in ('probe/knn', 'probe/linear', 'probe/seconds'):
        assert [event.step for event in events.Scalars(key)] == [0, 220, 440, 660]
    first, _, middle, last = (event.value for event in events.Scalars('probe/knn'))
    assert last > middle > first
    assert last > first + 10


@slow
def test_two_processes_write_one_curve(root, tmp_path):
    config = root / 'configs' / 'smoke' / 'randsac_vit_probed_digits.py'
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'one'), tmp_path.name
    one = Runner.from_cfg(cfg)
    one.train()
    run('bash', root / 'tools' / 'dist_train.sh', config, 2, '--work-dir', tmp_path / 'two')
    (scalars,) = (tmp_path / 'two').glob('*/vis_data/scalars.json')
    entries = [json.loads(line) for line in scalars.read_text().splitlines() if 'probe/knn' in line]
    assert [entry['step'] for entry in entries] == sorted({entry['step'] for entry in entries})
    # The untrained encoder is that of rank 0, whose seed is that of a single process.
    assert entries[0]['probe/knn'] == log(one)[0]['probe/knn']


def test_failure_on_the_first_rank_is_one_on_all(monkeypatch):
    assert on_first_rank(lambda: 3) == 3
    monkeypatch.setattr(distributed, 'get_rank', lambda: 1)
    monkeypatch.setattr(distributed, 'broadcast_object_list', lambda outcome: outcome.__setitem__(1, 'rank 0: gone'))
    with pytest.raises(RuntimeError, match='rank 0: gone'):
        on_first_rank(lambda: 3)
