"""Kernels: attention and linear maps, each with several back-ends of one meaning. Pure torch, no OpenMMLab."""

from .attention import ATTENTION_BACKENDS, attention, attention_backend, attention_backends, make_mask, use_attention
from .attention_choice import AttentionShape, choose_attention
from .autocast import autocast_dtype
from .choice import Choice, choose_together
from .linear import LINEAR_BACKENDS, linear, linear_backend, linear_backends, use_linear
from .linear_choice import LinearShape, choose_linear
from .masks import NEVER, Mask

__all__ = [
    'ATTENTION_BACKENDS',
    'LINEAR_BACKENDS',
    'NEVER',
    'AttentionShape',
    'Choice',
    'LinearShape',
    'Mask',
    'attention',
    'attention_backend',
    'attention_backends',
    'autocast_dtype',
    'choose_attention',
    'choose_linear',
    'choose_together',
    'linear',
    'linear_backend',
    'linear_backends',
    'make_mask',
    'use_attention',
    'use_linear',
]
