"""Contract: draws follow from the run's seed, the image and the pass: not from processes, workers or interruptions."""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from engine.toy_engine import toy_config
from mmengine.runner import Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from mmpretrain.registry import DATA_SAMPLERS

from randsac_mm.engine import SampleSeedHook
from randsac_mm.engine.fast_forward import ResumedBatches, samplers
from randsac_mm.models import BatchAugmentDataPreprocessor

STEPS, TOTAL = 8, 4  # of a total batch of 4, of 16 images: two passes


def make_loader(monkeypatch, sampler='DefaultSampler', workers=0, rank=0, world=1, hook=None, preprocessor=None):
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world))
    config = toy_config('.', iters=1, sampler=sampler, workers=workers)['train_dataloader']
    config['dataset'] = {'type': 'ToyData', 'size': 16}
    if not isinstance(sampler, str):
        config['sampler'] = sampler
    loader = Runner.build_dataloader({**config, 'batch_size': TOTAL // world}, seed=3)
    model = SimpleNamespace(data_preprocessor=preprocessor)
    runner = SimpleNamespace(train_dataloader=loader, model=model, train_loop=None)
    for _ in range(2):  # once more must change nothing
        (hook or SampleSeedHook()).before_train(runner)
    return loader


def read(loader, steps=STEPS):
    """Return the samples of each step as sorted lists; a sample is its index and three draws below 1."""
    batches = _InfiniteDataloaderIterator(loader)
    return [sorted(tuple(sample.tolist()) for sample in next(batches)['inputs']) for _ in range(steps)]


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
@pytest.mark.parametrize('workers', [0, 2])
def test_any_number_of_processes_and_workers_sees_the_same(monkeypatch, sampler, workers):
    whole = read(make_loader(monkeypatch, sampler))
    assert len({sample for step in whole for sample in step}) == STEPS * TOTAL, 'other draws in each pass'
    for world in (1, 2, 4):
        parts = [read(make_loader(monkeypatch, sampler, workers, rank, world)) for rank in range(world)]
        assert [sorted(itertools.chain(*step)) for step in zip(*parts, strict=True)] == whole
    plain = make_loader(monkeypatch, sampler, workers, hook=SampleSeedHook(enabled=False))
    assert read(plain) != whole


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
@pytest.mark.parametrize(('workers', 'done'), [(0, 6), (2, 3), (2, 6)])
def test_batches_after_a_resume_are_those_of_the_whole_run(monkeypatch, sampler, workers, done):
    loader = make_loader(monkeypatch, sampler, workers)
    resumed = ResumedBatches(_InfiniteDataloaderIterator(loader), done, lambda: None)
    resumed.skip_iter(done)
    rest = [sorted(tuple(sample.tolist()) for sample in next(resumed)['inputs']) for _ in range(STEPS - done)]
    assert rest == read(make_loader(monkeypatch, sampler))[done:]


def test_random_states_of_the_process_are_left_alone(monkeypatch):
    def numbers():
        return random.random(), np.random.rand(), torch.rand(()).item()

    batches = iter(make_loader(monkeypatch))
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = numbers()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    next(batches)
    assert numbers() == expected


def test_the_seed_of_the_sampler_decides_even_if_it_changes_later(monkeypatch):
    """As when a run is resumed whose sampler had another seed."""
    loaders = [make_loader(monkeypatch) for _ in range(2)]
    for sampler in samplers(loaders[1]):
        sampler.seed = 4
    one, two = ({int(s[0]): s for step in read(loader, 4) for s in step} for loader in loaders)
    assert not set(one.values()) & set(two.values())


def test_samplers_that_repeat_images_within_a_pass_are_left_as_they_are(monkeypatch):
    loader = make_loader(monkeypatch, dict(type=DATA_SAMPLERS.get('RepeatAugSampler'), shuffle=True))
    assert len({sample for step in read(loader) for sample in step}) == STEPS * TOTAL


def test_seeds_reach_only_a_data_preprocessor_that_knows_them(monkeypatch):
    ours = next(iter(make_loader(monkeypatch, preprocessor=BatchAugmentDataPreprocessor())))
    assert (ours['sample_seeds'].dtype, ours['sample_seeds'].shape) == (torch.int64, (TOTAL,))
    assert set(next(iter(make_loader(monkeypatch)))) == {'inputs'}
