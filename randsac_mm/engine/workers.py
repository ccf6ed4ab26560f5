"""Random numbers in the worker processes of a dataloader."""

import os

import torch
from mmengine.registry import FUNCTIONS

from randsac_mm.engine.random_state import reseed


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seed Python, numpy and torch in a worker, otherwise for every epoch, worker and rank.

    ``train_dataloader=dict(worker_init_fn=dict(type='seed_worker'), ...)``. mmengine's default seeds the workers with
    the same numbers at the start of every epoch unless ``persistent_workers=True``, so each image is cropped the same
    way again and again, and on every rank if ``diff_rank_seed`` is off.

    The seed comes from the one that torch draws from the main process whenever it starts the workers. Therefore a run
    that is resumed after an epoch with restored random states repeats an uninterrupted one. Workers that persist are
    started only once: they differ from epoch to epoch, too, but a resumed run does not repeat them.

    Args:
        worker_id: Number of the worker, from 0; given by torch, which has added it to its seed.
    """
    # A worker does not know its rank, but inherits the environment that every launcher sets.
    reseed(torch.initial_seed() % 2**64, int(os.environ.get('RANK', 0)), worker_id)
