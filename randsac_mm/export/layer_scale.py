"""Layer scale as part of the linear layers before it."""

from collections.abc import Mapping

from torch import Tensor

_SCALED = {'gamma_1': 'attn.proj', 'gamma_2': 'ffn.layers.1'}


def fold_layer_scale(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Multiply layer-scale factors into the layers that they follow: ``gamma * (W x + b) = (gamma W) x + gamma b``.

    Args:
        state: Weights of a :class:`randsac_mm.models.RandSACViT`.

    Returns:
        Weights without such factors, of the same function, and a note if there were any.

    Example:
        >>> import torch
        >>> names = ['gamma_1', 'attn.proj.weight', 'attn.proj.bias']
        >>> values = [torch.tensor([2.0, 3.0]), torch.ones(2, 2), torch.ones(2)]
        >>> folded, _ = fold_layer_scale({f'layers.0.{name}': value for name, value in zip(names, values)})
        >>> folded['layers.0.attn.proj.weight'].tolist(), folded['layers.0.attn.proj.bias'].tolist()
        ([[2.0, 2.0], [3.0, 3.0]], [2.0, 3.0])
    """
    folded = dict(state)
    factors = [key for key in state if key.rpartition('.')[2] in _SCALED]
    for key in factors:
        layer, _, name = key.rpartition('.')
        gamma = folded.pop(key)
        weight, bias = (f'{layer}.{_SCALED[name]}.{kind}' for kind in ('weight', 'bias'))
        folded[weight], folded[bias] = gamma[:, None] * folded[weight], gamma * folded[bias]
    return folded, ['layer scale multiplied into the layers before it'] if factors else []
