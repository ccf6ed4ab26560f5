"""Steps that are not finite never change the weights, and a run that meets several in a row goes back."""

import logging

import pytest
from engine.toy_engine import assert_same, toy_config, trained_state
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from randsac_mm.engine import SkipNonFiniteHook, launch
from randsac_mm.engine.non_finite import NonFiniteError
from randsac_mm.transfer.reading import read_checkpoint


@HOOKS.register_module()
class Poison(Hook):
    """Makes images, loss, gradients or weights ``value`` in some iterations, counted from 0."""

    def __init__(self, what, iterations, value='nan', once=False):
        self.what, self.iterations, self.value, self.once = what, list(iterations), float(value), once
        self.seen = []

    def before_train(self, runner):
        model, poison = runner.model, self
        forward = model.forward

        def poisoned(inputs, mode='tensor', **kwargs):
            out = forward(inputs, mode=mode, **kwargs)
            if mode == 'loss' and poison.now and poison.what == 'loss':
                out['loss'] = out['loss'] * poison.value
            return out

        self.now = False
        model.forward = poisoned
        first = next(model.parameters())
        first.register_hook(lambda g: g * self.value if self.now and self.what == 'gradients' else g)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.now = runner.iter in self.iterations
        if self.now and self.once:
            self.iterations.remove(runner.iter)
        if self.now and self.what == 'images':
            data_batch['inputs'][0] = data_batch['inputs'][0] * self.value


def poisoned_config(folder, what, iterations, value='nan', fused=False, once=False, **options):
    config = toy_config(folder, **options)
    config['default_hooks']['skip_non_finite'] = {'type': 'SkipNonFiniteHook'}
    config['custom_hooks'] = [{'type': 'Poison', 'what': what, 'iterations': iterations, 'value': value, 'once': once}]
    config['optim_wrapper']['optimizer']['fused'] = fused
    return config


def hook_of(runner):
    return next(hook for hook in runner.hooks if isinstance(hook, SkipNonFiniteHook))


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('value', ['nan', 'inf', '1e30'])
@pytest.mark.parametrize('what', ['images', 'loss', 'gradients'])
def test_the_weights_and_the_optimiser_are_those_of_the_other_steps(tmp_path, what, value, fused):
    runner = Runner(**poisoned_config(tmp_path, what, [2, 7], value, fused, epochs=3))
    before = []

    class Watch(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if runner.iter in (2, 3, 7, 8):
                before.append(trained_state(runner))

    runner.register_hook(Watch(), 'LOWEST')
    runner.train()
    for one, two in (before[:2], before[2:]):
        tensors = {key: value for key, value in one.items() if key != 'random' and not key.endswith('.grad')}
        assert tensors
        assert_same(tensors, {key: two[key] for key in tensors})
    assert all(value.isfinite().all() for key, value in trained_state(runner).items())
    assert runner.iter == 12
    assert hook_of(runner).skipped == 2
    assert sorted(path.name for path in tmp_path.glob('nan/*')) == ['iter_3.pth', 'iter_8.pth']


def test_three_in_a_row_end_the_run_and_two_do_not(tmp_path):
    runner = Runner(**poisoned_config(tmp_path / 'two', 'loss', [1, 2, 4, 5, 6, 9], epochs=3))
    with pytest.raises(NonFiniteError, match='up to 7'):
        runner.train()
    assert hook_of(runner).skipped == 5
    Runner(**poisoned_config(tmp_path / 'one', 'loss', [1, 2, 4, 5, 7, 8], epochs=3)).train()


def test_accumulated_gradients_are_skipped_together(tmp_path):
    config = poisoned_config(tmp_path, 'loss', [2], iters=8, sampler='InfiniteSampler')
    config['optim_wrapper']['accumulative_counts'] = 2
    config['param_scheduler'] = []
    runner = Runner(**config)
    runner.train()
    state = runner.optim_wrapper.optimizer.state
    assert {int(entry['step']) for entry in state.values()} == {3}, 'of 4 updates'


def checkpoints(folder):
    return {path.name: read_checkpoint(path)['state_dict'] for path in folder.glob('*_*.pth')}


@pytest.fixture
def attempts(monkeypatch):
    """The runners that launch.train builds."""
    built = []

    def build(cfg):
        built.append(Runner(**{**cfg, 'experiment_name': f'{cfg.experiment_name}_{len(built)}'}))
        return built[-1]

    monkeypatch.setattr(launch, 'build_runner', build)
    monkeypatch.setattr(launch.time, 'sleep', lambda seconds: None)
    return built


def test_a_run_goes_back_twice_with_other_random_numbers_and_stops(tmp_path, attempts):
    cfg = Config(poisoned_config(tmp_path, 'gradients', [9, 10, 11], epochs=3))
    with pytest.raises(NonFiniteError, match=r'lower optim_wrapper.optimizer.lr'):
        launch.train(cfg)
    assert [runner.iter for runner in attempts] == [11, 11, 11]
    losses = [runner.message_hub.get_scalar('train/loss').data[0] for runner in attempts]
    assert len(losses[1]) == len(losses[0]), 'epochs 1 and 2 are not repeated'
    assert losses[1][:8].tolist() == losses[0][:8].tolist()
    assert len({runner_losses[8] for runner_losses in losses}) == 3, 'other random numbers'
    assert all(value.isfinite().all() for state in checkpoints(tmp_path).values() for value in state.values())


def test_a_run_that_recovers_ends_like_any_other(tmp_path, attempts, caplog):
    config = poisoned_config(tmp_path, 'loss', [], epochs=3)
    poison = HOOKS.build({'type': 'Poison', 'what': 'loss', 'iterations': [5, 6, 7], 'once': True})
    config['custom_hooks'] = [poison]
    with caplog.at_level(logging.WARNING):
        launch.train(Config(config))
    assert [runner.iter for runner in attempts] == [7, 12]
    assert checkpoints(tmp_path).keys() == {'epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth'}


def test_without_a_checkpoint_the_first_attempt_is_the_last(tmp_path, attempts):
    with pytest.raises(NonFiniteError):
        launch.train(Config(poisoned_config(tmp_path, 'images', [0, 1, 2], epochs=2)))
    assert len(attempts) == 1


def test_a_jump_of_the_loss_is_logged_once(tmp_path, monkeypatch):
    runner = Runner(**poisoned_config(tmp_path, 'loss', [150], '1000', iters=200, sampler='InfiniteSampler'))
    warnings = []
    monkeypatch.setattr(runner.logger, 'warning', warnings.append)
    runner.train()
    assert [text.split(':')[0] for text in warnings if 'standard deviations' in text] == ['Step 151']
