"""Random draws that belong to an image and a pass over the data, not to the process that reads it."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from torch.utils.data import get_worker_info

from randsac_mm.models import BatchAugmentDataPreprocessor
from randsac_mm.registry import register
from randsac_mm.segments.draws import scramble


@register('HOOKS', everywhere=True)
class SampleSeedHook(Hook):
    """Seed pipeline, crops and serialization of a training image by the sampler's seed, the image and the pass.

    Any number of processes and workers with the same total batch then sees the same images with the same draws, and a
    resumed run needs no worker's state. Not seeded: what a model itself draws, such as dropout, and samplers other than
    mmengine's two, which may repeat an image within a pass to see it with other draws.

    Args:
        enabled: Whether to do so: ``default_hooks = dict(sample_seeds=dict(type='SampleSeedHook', enabled=False))``.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def before_train(self, runner: Any) -> None:
        """Wrap data set, batch sampler and collation of the training's data loader."""
        loader = runner.train_dataloader
        sampler = getattr(loader.batch_sampler, 'sampler', None)
        known = isinstance(sampler, (DefaultSampler, InfiniteSampler))
        if not self.enabled or not known or isinstance(loader.dataset, _SeededSamples):
            return
        attempt = max((getattr(hook, 'attempt', 0) for hook in runner.hooks), default=0)  # ResumableCheckpointHook's
        attach = any(isinstance(module, BatchAugmentDataPreprocessor) for module in runner.model.modules())
        loader.collate_fn = partial(_collate, loader.collate_fn, attach)
        # DataLoader forbids to assign these two, since an iterator may be running.
        batches = _SeededBatches(loader.batch_sampler)
        batches.attempt = attempt
        vars(loader).update(dataset=_SeededSamples(loader.dataset), batch_sampler=batches)
        if isinstance(sampler, InfiniteSampler):
            sampler._infinite_indices = partial(_count_passes, sampler._infinite_indices, sampler.size)
            sampler.indices = sampler._indices_of_rank()
        source = getattr(runner.train_loop, 'dataloader_iterator', None)
        if getattr(source, '_iterator', None) is not None:  # mmengine 0.10.7 begins when it builds the loop
            source._iterator = iter(loader)


class _Index(int):
    """Index of a sample, with the number of its pass over the data."""


def _count_passes(endless: Callable[[], Iterator[int]], size: int) -> Iterator[_Index]:
    for place, index in enumerate(map(_Index, endless())):
        index.passed = place // size
        yield index


class _Wrapper:
    """Part of a data loader, with all its attributes."""

    def __init__(self, wrapped: Any) -> None:
        self.wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        if name == 'wrapped':  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.wrapped, name)

    def __len__(self) -> int:
        return len(self.wrapped)


class _SeededBatches(_Wrapper):
    attempt = 0  # another has other draws

    def __iter__(self) -> Iterator[tuple[list[int], np.ndarray]]:
        sampler = self.wrapped.sampler
        for indices in self.wrapped:
            passed = [sampler.epoch] if hasattr(sampler, 'epoch') else [index.passed for index in indices]
            seeds = scramble(scramble(torch.tensor(sampler.seed + (self.attempt << 32))) + torch.tensor(passed))
            seeds = scramble(seeds + torch.tensor(indices)) & (2**63 - 1)  # (B,), not negative
            yield indices, seeds.numpy()


class _SeededSamples(_Wrapper):
    seeded = True  # a resumed run need not load what it skips

    def __getitem__(self, index: int) -> Any:
        return self.wrapped[index]

    def __getitems__(self, batch: tuple[list[int], np.ndarray]) -> tuple[Any, np.ndarray]:
        indices, seeds = batch
        if hasattr(self.wrapped, '__getitems__'):  # a look-up as in InMemoryDataset, which draws nothing
            return self.wrapped.__getitems__(indices), seeds
        state = None if get_worker_info() else (random.getstate(), np.random.get_state(), torch.get_rng_state())
        samples = []
        for index, seed in zip(indices, seeds.tolist(), strict=True):
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would also seed all devices
            samples.append(self.wrapped[index])
        if state:
            random.setstate(state[0])
            np.random.set_state(state[1])
            torch.set_rng_state(state[2])
        return samples, seeds


def _collate(collate: Callable, attach: bool, drawn: tuple[Any, np.ndarray]) -> Any:
    batch, seeds = collate(drawn[0]), torch.from_numpy(drawn[1])
    if attach:  # pinned by the main process, for the copy not to wait
        batch['sample_seeds'] = seeds.pin_memory() if torch.cuda.is_initialized() else seeds
    return batch
