"""A run that was interrupted and resumed ends as if nothing had happened, wherever it was interrupted."""

import pytest
import torch
from engine.toy_engine import assert_same, last_checkpoint, toy_config, train, trained_state
from mmengine.runner import FlexibleRunner, Runner

from randsac_mm.engine import ResumableCheckpointHook
from randsac_mm.engine.fast_forward import ResumedBatches

RUNS = {
    'epochs': ({'epochs': 3}, 6),
    'epochs, validation': ({'epochs': 3, 'val': True}, 10),
    'epochs, workers': ({'epochs': 3, 'workers': 2}, 9),
    'epochs, flexible runner': ({'epochs': 3, 'val': True, 'save_best': 'acc', 'kind': FlexibleRunner}, 10),
    'within an epoch': ({'epochs': 3, 'by_epoch': False}, 6),
    'within an epoch, workers': ({'epochs': 3, 'by_epoch': False, 'interval': 3, 'workers': 2}, 7),
    'within an epoch, before its last hooks': ({'epochs': 3, 'by_epoch': False, 'interval': 4, 'val': True}, 5),
    'within an epoch, flexible runner': ({'epochs': 3, 'by_epoch': False, 'kind': FlexibleRunner}, 7),
    'within an epoch, seeded workers': ({'epochs': 3, 'by_epoch': False, 'workers': 2, 'seeded': True}, 7),
    'iterations, endless sampler, seeded workers': (
        {'iters': 11, 'sampler': 'InfiniteSampler', 'workers': 2, 'seeded': True},
        6,
    ),
    'iterations, seeded workers': ({'iters': 9, 'workers': 2, 'seeded': True}, 6),
    'iterations, endless sampler': ({'iters': 11, 'sampler': 'InfiniteSampler'}, 6),
    'iterations, validation': ({'iters': 11, 'sampler': 'InfiniteSampler', 'val': True}, 8),
    'iterations, finite sampler': ({'iters': 5}, 3),
    'iterations, exactly at the end of a pass': ({'iters': 11}, 8),
    'iterations, second pass': ({'iters': 11}, 10),
}


def assert_resumed_equals_whole(folder, stop, **options):
    expected = trained_state(train(folder / 'whole', **options))
    train(folder / 'parts', stop=stop, **options)
    resumed = train(folder / 'parts', resume=last_checkpoint(folder / 'parts'), **options)
    assert_same(trained_state(resumed), expected)


@pytest.mark.parametrize('name', RUNS)
def test_resumed_run_equals_uninterrupted_run(tmp_path, name):
    options, stop = RUNS[name]
    assert_resumed_equals_whole(tmp_path, stop, **options)


def test_the_comparison_notices_lost_random_states(tmp_path, monkeypatch):
    monkeypatch.setattr(ResumableCheckpointHook, '_restore_random_state', lambda *args: None)
    with pytest.raises(AssertionError, match='different'):
        assert_resumed_equals_whole(tmp_path, 6, epochs=3)


@pytest.mark.parametrize(
    ('options', 'name', 'iteration'),
    [
        ({'epochs': 2, 'seed': None}, 'epoch_1.pth', 4),
        ({'iters': 8, 'sampler': 'InfiniteSampler', 'seed': None}, 'iter_4.pth', 4),
        ({'epochs': 3, 'val': True, 'save_best': 'acc'}, 'epoch_2.pth', 8),  # written again after validation
    ],
)
def test_run_resumes_from_an_uninterrupted_runs_checkpoint(tmp_path, options, name, iteration):
    expected = trained_state(train(tmp_path / 'whole', **options))
    checkpoint = tmp_path / 'whole' / name
    assert torch.load(checkpoint, weights_only=True)['meta']['iter'] == iteration
    assert_same(trained_state(train(tmp_path / 'parts', resume=checkpoint, **options)), expected)


class WithoutSkipping:
    """The endless iterator of mmengine 0.10.7: made at once, and unable to skip."""

    def __init__(self, dataloader):
        self._dataloader = dataloader
        self._iterator = iter(dataloader)
        self._epoch = 0

    def __next__(self):
        try:
            return next(self._iterator)
        except StopIteration:
            self._epoch += 1
            self._dataloader.sampler.set_epoch(self._epoch)
            self._iterator = iter(self._dataloader)
            return next(self._iterator)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
    ('sampler', 'done', 'total'), [('InfiniteSampler', 6, 20), ('DefaultSampler', 6, 9), ('DefaultSampler', 4, 9)]
)
def test_batches_of_a_loop_that_cannot_skip(sampler, done, total, workers):
    def endless():
        config = toy_config('.', iters=9, sampler=sampler, workers=workers)['train_dataloader']
        return WithoutSkipping(Runner.build_dataloader(config, seed=0))

    def images(batches):
        return [[value.floor().int().tolist() for value in batch['inputs']] for batch in batches]

    whole = endless()
    expected = [next(whole) for _ in range(total)]
    restored = []
    resumed = ResumedBatches(endless(), done, lambda: restored.append(True))
    assert [next(resumed) for _ in range(done)] == [None] * done
    assert not restored
    rest = [next(resumed) for _ in range(total - done)]
    assert restored
    # Values are index + noise in [0, 1): rounding down gives the index.
    assert images(rest) == images(expected[done:])


def test_validation_does_not_change_the_training(tmp_path):
    plain = trained_state(train(tmp_path / 'plain', epochs=2))
    validated = trained_state(train(tmp_path / 'validated', epochs=2, val=True))
    assert_same(plain, validated)


def test_other_number_of_ranks_warns_and_starts_ranks_apart(tmp_path, monkeypatch):
    train(tmp_path, epochs=2)
    drawn, warnings = [], []
    for rank in range(2):
        monkeypatch.setattr('randsac_mm.engine.checkpoint.get_world_size', lambda: 2)
        monkeypatch.setattr('randsac_mm.engine.checkpoint.get_rank', lambda rank=rank: rank)
        hook = ResumableCheckpointHook()
        runner = Runner(**toy_config(tmp_path / str(rank), epochs=2))
        monkeypatch.setattr(runner.logger, 'warning', warnings.append)
        hook._loaded_meta = torch.load(tmp_path / 'epoch_1.pth', weights_only=True)['meta']
        hook._restore_random_state(runner)
        drawn.append(torch.rand(3))
    assert not torch.equal(*drawn)
    assert sum('written by 1 processes and 2 resume it' in m for m in warnings) == 2


@pytest.mark.parametrize(
    ('before', 'after', 'message'),
    [
        ({'epochs': 3}, {'epochs': 5}, r'param_scheduler\[0\].end .* is 20, not 12'),
        ({'iters': 6}, {'iters': 9}, r'T_max .* is 9, not 6'),
        ({'epochs': 3}, {'epochs': 3, 'longer': 2}, 'max_iters is 20, not 12'),
    ],
)
def test_changed_schedule_is_refused(tmp_path, before, after, message):
    train(tmp_path, stop=5, **before)
    with pytest.raises(ValueError, match=message):
        train(tmp_path, resume=last_checkpoint(tmp_path), **after)
    train(tmp_path, resume=last_checkpoint(tmp_path), keep_schedule=True, **after)


def test_loading_weights_is_no_resuming(tmp_path):
    train(tmp_path / 'first', epochs=2)
    config = toy_config(tmp_path / 'second', epochs=3)
    runner = Runner(**config, load_from=str(last_checkpoint(tmp_path / 'first')))
    runner.train()
    assert runner.epoch == 3
    assert len(runner.message_hub.get_scalar('train/loss').data[0]) == 12
