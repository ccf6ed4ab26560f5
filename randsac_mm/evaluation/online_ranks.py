"""Work of several processes that fails in all of them if it fails in one: nobody waits for an answer forever."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, get_world_size
from torch import Tensor

Result = TypeVar('Result')


def on_all_ranks(work: Callable[[], Result]) -> Result:
    """Do something on every rank, and go on only if all have succeeded.

    Args:
        work: Must not exchange anything between ranks.

    Returns:
        What ``work`` returns here.

    Raises:
        Exception: What ``work`` raises here.
        RuntimeError: If it failed on another rank only.
    """
    result, failure = None, None
    try:
        result = work()
    except Exception as error:  # the others wait for an answer
        failure = error
    _raise_together(failure, all_gather_object(_text(failure)))
    return result


def gather_features(work: Callable[[], Tensor | None]) -> Tensor:
    """Compute features on every rank, each of its share of the images, and put them together on all ranks.

    Args:
        work: Gives the features (m, D) of images ``rank``, ``rank + world_size``, ..., on the CPU; None if there are
            none.

    Returns:
        Features (n, D) in the order of the images.

    Raises:
        Exception: As :func:`on_all_ranks`.
    """
    features, failure = None, None
    try:
        features = work()
    except Exception as error:
        failure = error
    texts, parts = zip(*all_gather_object((_text(failure), features)), strict=True)
    _raise_together(failure, list(texts))
    filled = [(rank, part) for rank, part in enumerate(parts) if part is not None]
    whole = torch.empty(sum(len(part) for _, part in filled), filled[0][1].shape[1])
    for rank, part in filled:
        whole[rank :: get_world_size()] = part
    return whole


def on_main_rank(work: Callable[[], Result]) -> Result:
    """Do something on rank 0 and tell the result to all.

    Args:
        work: Returns plain values.

    Returns:
        Its result, on every rank.

    Raises:
        Exception: What ``work`` raises, on rank 0.
        RuntimeError: On the other ranks, if it failed.
    """
    message: list[Any] = [None, None]
    failure = None
    if get_rank() == 0:
        try:
            message[0] = work()
        except Exception as error:
            failure, message[1] = error, _text(error)
    broadcast_object_list(message)
    _raise_together(failure, [message[1]])
    return message[0]


def _text(error: Exception | None) -> str | None:
    return None if error is None else f'{type(error).__name__}: {error}'


def _raise_together(own: Exception | None, texts: list[str | None]) -> None:
    if own is not None:
        raise own
    for rank, text in enumerate(texts):
        if text is not None:
            raise RuntimeError(f'failed on rank {rank}: {text}')
