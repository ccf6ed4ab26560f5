"""Where the time of a step goes: its kernels by kind, from PyTorch's profiler."""

import re
from collections import Counter
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile

# The first pattern that occurs in the name of a kernel (CUDA) or operator (CPU) is its kind.
_KINDS = {
    'attention': r'attention|fmha|flash|_sdpa|softmax|rank_(forward|backward)',
    'matrix products': r'gemm|nvjet|cutlass|cublas|xmma|addmm|bmm|mm$|matmul|linear',
    'optimiser': r'adam|multi_tensor|foreach',
    'copies and casts': r'copy|memcpy|memset|cast|contiguous|::to$|fill|zero|clone|cat\b',
    'norms': r'norm|welford',
    'reductions': r'reduce|sum|mean',
    'fused': r'triton|graph_\d|cpp_fused',
}


def kind_of(name: str) -> str:
    """Return the kind of a kernel or operator by its name.

    Example:
        >>> [kind_of(name) for name in ('aten::addmm', 'aten::copy_', 'nvjet_hsh_128x256', 'aten::gelu')]
        ['matrix products', 'copies and casts', 'matrix products', 'other']
    """
    return next((kind for kind, pattern in _KINDS.items() if re.search(pattern, name, re.IGNORECASE)), 'other')


def time_by_kind(step: Callable[[], None], device: torch.device, steps: int = 2) -> dict[str, float]:
    """Return the seconds of a step that kernels of each kind take, most first, without overlap and launches."""
    is_gpu = device.type == 'cuda'
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_gpu else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(steps):
            step()
        if is_gpu:
            torch.cuda.synchronize(device)
    seconds: Counter[str] = Counter()
    for event in profiler.key_averages():
        on_device = event.device_type != torch.autograd.DeviceType.CPU
        if on_device == is_gpu:
            taken = event.self_device_time_total if is_gpu else event.self_cpu_time_total
            seconds[kind_of(event.key)] += taken / 1e6 / steps
    return dict(seconds.most_common())
