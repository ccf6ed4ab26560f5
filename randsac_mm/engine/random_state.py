"""Random number generators of a process and of its dataloader's workers: capture, restore, reseed."""

import os
import random
from multiprocessing import parent_process
from typing import Any

import numpy as np
import torch
from mmengine.registry import FUNCTIONS


def capture() -> dict[str, Any]:
    """Return the states of Python's, numpy's, torch's CPU and the current CUDA device's generator, as plain values."""
    version, internal, gauss = random.getstate()
    name, key, *rest = np.random.get_state()
    return {
        'python': [version, torch.tensor(internal), gauss],
        # As int64: tensors of uint32 cannot be sent from rank to rank.
        'numpy': [name, torch.from_numpy(key.astype(np.int64)), *rest],
        'torch': torch.get_rng_state(),
        'cuda': [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
    }


def restore(state: dict[str, Any]) -> None:
    """Restore what :func:`capture` returned, on any device."""
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, key, *rest = state['numpy']
    np.random.set_state((name, key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    if state['cuda'] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'][0].cpu())


def reseed(*entropy: int) -> None:
    """Seed all generators of this process from non-negative integers, as a run's seed, its iteration and the rank."""
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@FUNCTIONS.register_module()
def seed_worker(worker_id: int) -> None:
    """Seed Python, numpy and torch in a worker, otherwise for every epoch, worker and rank.

    ``train_dataloader=dict(worker_init_fn=dict(type='seed_worker'), ...)``. mmengine's default repeats the same numbers
    in every epoch unless ``persistent_workers=True``, and on every rank if ``diff_rank_seed`` is off.
    """
    parent = parent_process()
    if parent is not None and os.getppid() != parent.pid:  # killed just now: torch would wait for ever
        os._exit(1)
    # torch seeds workers from the main process, whose random states a resumed run restores, and adds worker_id.
    # A worker does not know its rank, but inherits the environment that every launcher sets.
    reseed(torch.initial_seed() % 2**64, int(os.environ.get('RANK', 0)), worker_id)
