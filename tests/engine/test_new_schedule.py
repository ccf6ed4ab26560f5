"""Contract: the learning rate of a run is the config's: in a warm-up of one step and after a resume; or refused."""

import math

import pytest
import torch
from engine.toy_engine import ToyModel, last_checkpoint, toy_config
from mmengine.config import Config
from mmengine.registry import MODELS

from randsac_mm.engine import launch
from randsac_mm.engine.work_dir import use_resume

WARM = {'type': 'LinearLR', 'start_factor': 0.001, 'begin': 0}
DECAY = {'type': 'CosineAnnealingLR', 'eta_min': 0.001}


def run(folder, schedule, *, wrapper=None, stop=None, resume=None, strategy=None, hook=None, bias=None, **options):
    """Train the toy as the tools do; return the learning rate of every step, or what a resumed run did."""
    config = toy_config(folder, **options)
    config['param_scheduler'] = schedule
    config['optim_wrapper']['optimizer'].update(wrapper or {})
    config['default_hooks']['checkpoint'].update(hook or {})
    if bias is not None:  # several parameter groups
        config['optim_wrapper']['paramwise_cfg'] = {'bias_lr_mult': bias}
    if stop is not None:
        config['custom_hooks'] = [{'type': 'Interrupt', 'iteration': stop}]
    if resume:
        config.update(resume=True, load_from=str(last_checkpoint(resume)))
    if strategy:
        config['strategy'] = {'type': strategy}
    runner = launch.build_runner(Config(config))
    try:
        runner.train()
    except Exception:
        if stop is None:
            raise
    return runner, runner.message_hub.get_scalar('train/lr').data[0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize('strategy', [None, 'SingleDeviceStrategy'])
@pytest.mark.parametrize(
    ('length', 'batches', 'warm', 'decay'),
    [
        ({'iters': 6}, 4, {'by_epoch': False, 'end': 1}, {'by_epoch': False, 'begin': 1, 'T_max': 5, 'end': 6}),
        ({'epochs': 6}, 1, {'end': 1, 'convert_to_iter_based': True}, {'begin': 1, 'T_max': 5, 'end': 6}),
        ({'epochs': 6}, 1, {'end': 1}, {'begin': 1, 'T_max': 5, 'end': 6}),
        (
            {'iters': 6},
            4,
            {'type': 'ConstantLR', 'by_epoch': False, 'end': 1},
            {'by_epoch': False, 'T_max': 6, 'end': 6},
        ),
    ],
)
def test_a_warm_up_of_one_step_ends(tmp_path, monkeypatch, length, batches, warm, decay, strategy):
    monkeypatch.setattr('engine.toy_engine.ToyData.__len__', lambda self: 13 if batches == 4 else 4)
    warm = {key: value for key, value in {**WARM, **warm}.items() if warm.get('type') is None or key != 'start_factor'}
    _, plain = run(tmp_path / 'plain', [{**DECAY, **decay}], strategy=strategy, **length)
    runner, warmed = run(tmp_path / 'warmed', [warm, {**DECAY, **decay}], strategy=strategy, **length)
    assert warmed == plain
    assert max(plain) == 0.1
    assert len(runner.param_schedulers) == 1
    assert 'one step' in next((tmp_path / 'warmed').glob('*/*.log')).read_text()


def test_a_warm_up_of_the_whole_run_of_one_step(tmp_path):
    _, rates = run(tmp_path, {**WARM, 'by_epoch': False}, iters=1)
    assert rates == [0.1]


def test_a_warm_up_that_ends_after_the_run_is_named(tmp_path):
    _, rates = run(tmp_path, [{**WARM, 'by_epoch': False, 'end': 500}], iters=5)
    assert max(rates) < 0.002
    assert 'the warm-up ends at step 500, the run at 5' in next(tmp_path.glob('*/*.log')).read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('wrapper', 'named'),
    [
        ({'lr': 0.05}, 'lr is 0.05, not 0.1'),
        ({'weight_decay': 0.3}, 'weight_decay is 0.3, not 0.01'),
        ({'betas': (0.9, 0.95)}, r'betas is \(0.9, 0.95\), not \(0.9, 0.999\)'),
    ],
)
@pytest.mark.parametrize('strategy', [None, 'SingleDeviceStrategy'])
def test_a_resumed_run_with_other_settings_is_refused_or_keeps_the_old(tmp_path, wrapper, named, strategy):
    schedule = [{**DECAY, 'by_epoch': False, 'T_max': 8, 'end': 8}]
    options = dict(iters=8, strategy=strategy, bias=2.0)
    _, whole = run(tmp_path / 'whole', schedule, **options)
    run(tmp_path / 'part', schedule, stop=5, **options)
    with pytest.raises(ValueError, match=f'cannot resume.*{named}.*new_schedule=True'):
        run(tmp_path / 'part', schedule, wrapper=wrapper, resume=tmp_path / 'part', **options)
    kept, rates = run(
        tmp_path / 'part', schedule, wrapper=wrapper, resume=tmp_path / 'part', hook={'keep_schedule': True}, **options
    )
    assert rates == whole
    assert kept.optim_wrapper.param_groups[0]['weight_decay'] == 0.01


@pytest.mark.slow
@pytest.mark.parametrize('strategy', [None, 'SingleDeviceStrategy'])
@pytest.mark.parametrize(
    ('length', 'warm', 'decay', 'stop'),
    [
        ({'iters': 12}, {'by_epoch': False, 'end': 4}, {'by_epoch': False, 'begin': 4, 'T_max': 8, 'end': 12}, 7),
        ({'iters': 12}, {'by_epoch': False, 'end': 8}, {'by_epoch': False, 'begin': 8, 'T_max': 4, 'end': 12}, 3),
        ({'epochs': 3}, {'end': 1, 'convert_to_iter_based': True}, {'begin': 1, 'T_max': 2, 'end': 3}, 9),
    ],
)
def test_new_settings_hold_from_the_step_of_the_resume(tmp_path, length, warm, decay, stop, strategy):
    schedule = [{**WARM, **warm}, {**DECAY, **decay}]
    options = dict(bias=2.0, strategy=strategy, **length)
    new = {'lr': 0.03, 'weight_decay': 0.3, 'betas': (0.8, 0.9)}
    expected, whole = run(tmp_path / 'whole', schedule, wrapper=new, **options)
    _, old = run(tmp_path / 'part', schedule, stop=stop, **options)
    resumed, rates = run(
        tmp_path / 'part', schedule, wrapper=new, resume=tmp_path / 'part', hook={'new_schedule': True}, **options
    )
    done = stop - stop % 4 if 'epochs' in length else stop
    assert rates[:done] == old[:done] != whole[:done]
    assert rates[done:] == pytest.approx(whole[done:], rel=1e-9)
    for ours, theirs in zip(resumed.optim_wrapper.param_groups, expected.optim_wrapper.param_groups, strict=True):
        assert {k: v for k, v in ours.items() if k != 'params'} == {k: v for k, v in theirs.items() if k != 'params'}
    assert {int(state['step']) for state in resumed.optim_wrapper.optimizer.state.values()} == {12}, 'the averages stay'
    assert len(torch.load(last_checkpoint(tmp_path / 'part'), weights_only=True)['param_schedulers']) == 2


@pytest.mark.parametrize('schedule', [[{**DECAY, 'by_epoch': False, 'T_max': 8, 'end': 8, 'eta_min': 0.02}], None])
def test_a_schedule_of_the_same_length_or_none_is_new(tmp_path, schedule):
    """Only the last value differs; or there is none, though the checkpoint's run had warmed up."""
    old = [{**DECAY, 'by_epoch': False, 'T_max': 8, 'end': 8}]
    run(tmp_path / 'part', old, stop=5, iters=8)
    if schedule is None:
        path = last_checkpoint(tmp_path / 'part')
        content = torch.load(path, weights_only=True)
        content['message_hub']['runtime_info']['warmup'] = [4, 6, 0.5]
        torch.save(content, path)
    _, whole = run(tmp_path / 'whole', schedule, iters=8)
    _, rates = run(tmp_path / 'part', schedule, resume=tmp_path / 'part', hook={'new_schedule': True}, iters=8)
    assert rates[5:] == pytest.approx(whole[5:])


@MODELS.register_module()
class Diverges(ToyModel):
    def train_step(self, data, optim_wrapper):
        optim_wrapper.update_params(self(**data, mode='loss')['loss'])
        large = optim_wrapper.clip_grad_kwargs is None and optim_wrapper.param_groups[0]['lr'] > 0.05
        return {'loss': torch.tensor(math.nan if large and self.step() > 5 else 1.0)}

    def step(self):
        self.steps = getattr(self, 'steps', 0) + 1
        return self.steps


@pytest.mark.parametrize(
    'advice',
    [
        ['optim_wrapper.clip_grad.max_norm=1.0'],
        ['default_hooks.checkpoint.new_schedule=True', 'optim_wrapper.optimizer.lr=0.01'],
    ],
)
def test_the_advice_of_a_loss_that_is_not_finite_works(tmp_path, advice):
    config = toy_config(tmp_path / 'run', epochs=3)
    config['model'] = {'type': 'Diverges'}
    config['default_hooks']['runtime_info'] = {'type': 'DeferredRuntimeInfoHook'}
    Config(config).dump(tmp_path / 'toy.py')
    with pytest.raises(FloatingPointError) as error:
        launch.build_runner(launch.load_config(str(tmp_path / 'toy.py'), [], None, 'none')).train()
    assert all(part.rpartition('=')[0] in str(error.value) for part in advice)
    cfg = launch.load_config(str(tmp_path / 'toy.py'), [*advice, f'experiment_name={advice[0]}'], None, 'none')
    assert use_resume(cfg, 'latest')
    runner = launch.build_runner(cfg)
    runner.train()
    assert runner.iter == 12


def test_auto_scale_lr_counts_accumulated_steps(tmp_path):
    config = toy_config(tmp_path, iters=2)
    config['auto_scale_lr'] = {'base_batch_size': 8, 'enable': True}
    config['optim_wrapper']['accumulative_counts'] = 3
    config['param_scheduler'] = None
    runner = launch.build_runner(Config(config))
    runner.train()
    assert runner.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.1 * 4 * 3 / 8)
