"""Random number generators of this process: read all of them, put them back, or start them apart from each other."""

import random
from typing import Any

import numpy as np
import torch


def capture() -> dict[str, Any]:
    """Read the states of Python's, numpy's, torch's CPU and every visible CUDA device's generator.

    Returns:
        Tensors and plain values only, so that a checkpoint that holds them loads with ``weights_only=True``.

    Example:
        >>> state = capture()
        >>> first = torch.rand(2)
        >>> restore(state)
        >>> bool((torch.rand(2) == first).all())
        True
    """
    version, internal, gauss = random.getstate()
    name, key, *rest = np.random.get_state()
    state = {
        'python': [version, torch.tensor(internal), gauss],
        # As int64: tensors of uint32 cannot be sent from rank to rank.
        'numpy': [name, torch.from_numpy(key.astype(np.int64)), *rest],
        'torch': torch.get_rng_state(),
        'cuda': [],
        'cuda_device': 0,
    }
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state_all()
        state['cuda_device'] = torch.cuda.current_device()
    return state


def restore(state: dict[str, Any]) -> None:
    """Put back what :func:`capture` returned.

    With another number of visible CUDA devices than then, the current device takes the state that the current
    device had, and the others keep theirs.

    Args:
        state: A result of :func:`capture`, on any device.
    """
    version, internal, gauss = state['python']
    random.setstate((version, tuple(internal.tolist()), gauss))
    name, key, *rest = state['numpy']
    np.random.set_state((name, key.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'].cpu())
    cuda = [device_state.cpu() for device_state in state['cuda']]
    if not cuda or not torch.cuda.is_available():
        return
    if len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(cuda)
    else:
        torch.cuda.set_rng_state(cuda[state['cuda_device']])


def reseed(*entropy: int) -> int:
    """Seed all generators of this process from several integers; other integers give unrelated numbers.

    Args:
        entropy: Non-negative integers, for example a run's seed, its iteration and the rank.

    Returns:
        The seed, 0 <= seed < 2**32.
    """
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed
