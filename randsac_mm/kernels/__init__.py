"""Attention and linear layers, each with several kernels that compute the same. Pure torch, no OpenMMLab."""

from .attention import attention, check_backend, choose_backend
from .linear import autocast_dtype, linear

__all__ = ['attention', 'autocast_dtype', 'check_backend', 'choose_backend', 'linear']
