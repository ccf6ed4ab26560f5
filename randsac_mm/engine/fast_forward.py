"""Skip the batches that a resumed run has already seen.

mmengine draws random numbers while it skips, calls no hook before it loads the first new batch, and starts an
unfinished epoch again.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader


class ResumedBatches:
    """Iterator of an ``IterBasedTrainLoop`` that skips without loading, restores the random states, then loads.

    ``source`` is mmengine's ``_InfiniteDataloaderIterator``, of which ``done`` batches have been consumed already.
    """

    def __init__(self, source: Any, done: int, restore: Callable[[], None]) -> None:
        self.source = source
        self._done, self._restore = done, restore
        # mmengine 0.10.7 has no skip_iter: its loop calls next() as many times as batches are to be skipped.
        self._calls_to_ignore = 0 if hasattr(source, 'skip_iter') else done
        self._started = False

    def __iter__(self) -> 'ResumedBatches':
        return self

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: how many batches are done is known."""

    def __next__(self) -> Any:
        if self._calls_to_ignore:
            self._calls_to_ignore -= 1
            return None
        if not self._started:
            self._started = True
            _skip(self.source, self._done, self._restore)
        return next(self.source)


def resume_within_epoch(loop: Any, done: int, restore_start: Callable[[], None], restore: Callable[[], None]) -> None:
    """Make an ``EpochBasedTrainLoop`` skip the first ``done`` batches of the epoch that it runs first.

    ``restore_start`` restores the random states in which that epoch was begun, ``restore`` those after its batch
    ``done``.
    """

    def run_epoch() -> None:
        del loop.run_epoch  # later epochs are mmengine's own
        loop.runner.call_hook('before_train_epoch')
        loop.runner.model.train()
        restore_start()
        batches = _iterate_from(loop.dataloader, done)
        restore()
        for index, batch in enumerate(batches, done):
            loop.run_iter(index, batch)
        loop.runner.call_hook('after_train_epoch')
        loop._epoch += 1

    loop.run_epoch = run_epoch


def samplers(loader: DataLoader) -> list[Any]:
    """Return the samplers that decide the order of a dataloader's samples and keep a seed of their own."""
    found = [loader.sampler, getattr(loader.batch_sampler, 'sampler', None)]
    return [sampler for sampler in found if hasattr(sampler, 'seed')]


def _skip(source: Any, count: int, restore: Callable[[], None]) -> None:
    """Move mmengine's endless iterator ``source`` to batch ``count`` and restore the random states."""
    loader = source._dataloader
    source._iterator = None  # ends the workers of an iterator that started at batch 0
    endless = [sampler for sampler in samplers(loader) if hasattr(sampler, '_indices_of_rank')]
    if endless:
        for sampler in endless:
            # islice, unlike the generator itself, survives the end of the iterator that reads it.
            sampler.indices = islice(sampler._indices_of_rank(), 0, None)
        indices = iter(loader._index_sampler)
        for _ in range(count):
            next(indices)
        count = 0
    elif count:
        source._epoch = (count - 1) // len(loader)
        count -= source._epoch * len(loader)
        for sampler in samplers(loader):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(source._epoch)

    restore()  # workers are seeded when they start
    source._iterator = _iterate_from(loader, count)
    restore()


def _iterate_from(loader: DataLoader, done: int) -> Iterator[Any]:
    """Start an iterator at batch ``done``; batches of workers that draw random numbers are loaded and dropped."""
    if loader.num_workers and not getattr(loader.dataset, 'seeded', False):
        batches = iter(loader)
        for _ in range(done):
            next(batches)
        return batches
    every = loader.batch_sampler
    vars(loader)['batch_sampler'] = islice(every, done, None)  # DataLoader forbids to assign it
    batches = iter(loader)
    vars(loader)['batch_sampler'] = every
    return batches
