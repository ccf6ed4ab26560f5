"""Find the place in the data of an iteration-based run that is resumed.

mmengine 0.10.7 loads every batch that the run has already seen; the loading draws random numbers. OneDL's mmengine
skips them, and creates the iterator afterwards, which draws as well. In both, the random states of the checkpoint must
be put back after that and before the first new batch is loaded, and no hook is called there.
"""

from collections.abc import Callable
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset


class ResumedBatches:
    """Stand in for the iterator of an ``IterBasedTrainLoop`` whose run continues at iteration ``done``.

    Skips without loading, whichever way the installed mmengine asks for it, then restores the random states, then
    loads. With ``num_workers=0`` the batches are those of an uninterrupted run, bit for bit.

    Args:
        source: mmengine's ``_InfiniteDataloaderIterator``.
        done: Batches that the run has consumed already.
        restore: Puts the random states back; called once, right before the first new batch is loaded.
    """

    def __init__(self, source: Any, done: int, restore: Callable[[], None]) -> None:
        self.source = source
        self._restore = restore
        self._started = False
        # mmengine 0.10.7 has no skip_iter: its loop calls next() as many times as batches are to be skipped.
        self._calls_to_ignore = 0 if hasattr(source, 'skip_iter') else done
        self._to_skip = self._calls_to_ignore

    def __iter__(self) -> 'ResumedBatches':
        return self

    def skip_iter(self, num_iters: int) -> None:
        """Note that the next batch is number ``num_iters``, counted from 0 at the start of the training."""
        self._to_skip = num_iters

    def __next__(self) -> Any:
        if self._calls_to_ignore:
            self._calls_to_ignore -= 1
            return None
        if not self._started:
            self._started = True
            _skip(self.source, self._to_skip, self._restore)
        return next(self.source)


def samplers(loader: DataLoader) -> list[Any]:
    """List the samplers that decide the order of a dataloader's samples and keep a seed of their own."""
    found = [loader.sampler, getattr(loader.batch_sampler, 'sampler', None)]
    return [s for s in found if hasattr(s, 'seed')]


def _skip(source: Any, count: int, restore: Callable[[], None]) -> None:
    """Move mmengine's endless iterator ``source`` to batch ``count`` and restore the random states."""
    loader = source._dataloader
    if count == 0:
        if source._iterator is None:
            source._iterator = iter(loader)
        restore()
        return
    if isinstance(loader.dataset, IterableDataset):  # there is nothing to skip but data
        for _ in range(count):
            next(source)
        restore()
        return

    source._iterator = None  # ends the workers of an iterator that started at batch 0
    endless = [s for s in samplers(loader) if hasattr(s, '_indices_of_rank')]
    for sampler in endless:
        # islice, unlike the generator itself, survives the end of the iterator that reads it.
        sampler.indices = islice(sampler._indices_of_rank(), 0, None)
    if not endless:
        source._epoch = (count - 1) // len(loader)
        count -= source._epoch * len(loader)
        for sampler in samplers(loader):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(source._epoch)

    if loader.num_workers == 0:
        source._iterator = iter(loader)
        for _ in range(count):
            source._iterator._next_index()  # torch's own step through the indices, without loading
        restore()
    elif endless:
        indices = iter(loader._index_sampler)
        for _ in range(count):
            next(indices)
        restore()
        source._iterator = iter(loader)
    else:
        restore()
        source._iterator = iter(loader)
        for _ in range(count):  # less than an epoch
            next(source._iterator)
