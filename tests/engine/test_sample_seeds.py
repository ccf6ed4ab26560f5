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
from mmpretrain.datasets import RepeatAugSampler

from randsac_mm.engine import SampleSeedHook, random_state
from randsac_mm.engine.fast_forward import ResumedBatches
from randsac_mm.models import BatchAugmentDataPreprocessor

STEPS, TOTAL = 8, 4  # of a total batch of 4, of 16 images: two passes


def make_loader(monkeypatch, sampler='DefaultSampler', workers=0, rank=0, world=1, preprocessor=None, **options):
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, world))
    config = toy_config('.', iters=1, sampler=sampler, workers=workers)['train_dataloader']
    config.update(dataset={'type': 'ToyData', 'size': 16}, batch_size=TOTAL // world)
    loader = Runner.build_dataloader(config, seed=3)
    runner = SimpleNamespace(
        train_dataloader=loader, model=preprocessor or torch.nn.Identity(), train_loop=None, hooks=[]
    )
    for _ in range(2):  # once more must change nothing
        SampleSeedHook(**options).before_train(runner)
    return loader


def read(loader, steps=STEPS):
    """Return the samples of each step as sorted lists; a sample is its index and three draws below 1."""
    batches = _InfiniteDataloaderIterator(loader)
    return [sorted(tuple(sample.tolist()) for sample in next(batches)['inputs']) for _ in range(steps)]


@pytest.mark.slow
@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
@pytest.mark.parametrize('workers', [0, 2])
def test_any_number_of_processes_and_workers_sees_the_same(monkeypatch, sampler, workers):
    whole = read(make_loader(monkeypatch, sampler))
    assert len({sample for step in whole for sample in step}) == STEPS * TOTAL, 'other draws in each pass'
    for world in (1, 2, 4):
        parts = [read(make_loader(monkeypatch, sampler, workers, rank, world)) for rank in range(world)]
        assert [sorted(itertools.chain(*step)) for step in zip(*parts, strict=True)] == whole
    assert read(make_loader(monkeypatch, sampler, workers, enabled=False)) != whole


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
@pytest.mark.parametrize(('workers', 'done'), [(0, 6), (2, 3), (2, 6)])
def test_batches_after_a_resume_are_those_of_the_whole_run(monkeypatch, sampler, workers, done):
    loader = make_loader(monkeypatch, sampler, workers)
    resumed = ResumedBatches(_InfiniteDataloaderIterator(loader), done, lambda: None)
    resumed.skip_iter(done)
    rest = [sorted(tuple(sample.tolist()) for sample in next(resumed)['inputs']) for _ in range(STEPS - done)]
    assert rest == read(make_loader(monkeypatch, sampler))[done:]


def test_random_states_of_the_process_are_left_alone(monkeypatch):
    batches, state = iter(make_loader(monkeypatch)), random_state.capture()
    expected = random.random(), np.random.rand(), torch.rand(())
    random_state.restore(state)
    next(batches)
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


@pytest.mark.parametrize('sampler', ['DefaultSampler', 'InfiniteSampler'])
def test_an_iterator_that_began_before_the_hook_begins_anew(monkeypatch, sampler):
    """As in mmengine 0.10.7."""
    expected = read(make_loader(monkeypatch, sampler))
    config = toy_config('.', iters=1, sampler=sampler)['train_dataloader']
    loader = Runner.build_dataloader({**config, 'dataset': {'type': 'ToyData', 'size': 16}}, seed=3)
    eager = _InfiniteDataloaderIterator(loader)
    next(eager)
    runner = SimpleNamespace(train_dataloader=loader, model=torch.nn.Identity(), hooks=[])
    runner.train_loop = SimpleNamespace(dataloader_iterator=eager)
    SampleSeedHook().before_train(runner)
    assert sorted(tuple(sample.tolist()) for sample in next(eager)['inputs']) == expected[0]


def test_samplers_that_repeat_images_within_a_pass_are_left_as_they_are(monkeypatch):
    loader = make_loader(monkeypatch, RepeatAugSampler)
    assert len({sample for step in read(loader) for sample in step}) == STEPS * TOTAL


def test_seeds_reach_only_a_data_preprocessor_that_knows_them(monkeypatch):
    ours = next(iter(make_loader(monkeypatch, preprocessor=BatchAugmentDataPreprocessor())))
    assert (ours['sample_seeds'].dtype, ours['sample_seeds'].shape) == (torch.int64, (TOTAL,))
    assert set(next(iter(make_loader(monkeypatch)))) == {'inputs'}
