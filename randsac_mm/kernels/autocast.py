"""What autocast is doing, on any version of PyTorch."""

import torch


def autocast_dtype(device: str) -> torch.dtype | None:
    """Tell in which type autocast computes matrix products on a device type now; None if it is off.

    Args:
        device: ``'cpu'``, ``'cuda'``, ...

    Returns:
        A type such as ``torch.bfloat16``, or None.
    """
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == 'cpu':  # PyTorch before 2.4 has one function for each device
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
