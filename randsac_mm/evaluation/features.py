"""Features of a frozen backbone."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_MASKS = ('mask', 'importance')  # what mmpretrain's pre-training backbones call the mask that they draw or are given


def last_output(backbone: nn.Module, images: Tensor) -> Any:
    """Compute the last output of a backbone on whole images.

    Backbones of mmpretrain whose ``forward`` has an argument ``mask`` (MAE, BEiT, SimMIM) or ``importance`` (MILAN) would
    mask by themselves; they get None for it, which they take for a plain forward pass. Class and other extra tokens
    (``num_extra_tokens`` of the backbone) are left out.

    Args:
        backbone: Takes images and returns an output or a sequence of them.
        images: Normalised images (B, C, H, W).

    Returns:
        Whatever comes last, usually tokens (B, N, D), a feature map (B, D, h, w) or features (B, D).
    """
    accepted = inspect.signature(backbone.forward).parameters
    outputs = backbone(images, **{name: None for name in _MASKS if name in accepted})
    last = outputs[-1] if isinstance(outputs, Sequence) else outputs
    if isinstance(last, Tensor) and last.ndim == 3:
        return last[:, getattr(backbone, 'num_extra_tokens', 0) :]
    return last


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    images: Tensor,
    batch_size: int = 256,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    bf16: bool = False,
) -> Tensor:
    """Compute the last layer's output of a backbone, averaged over tokens.

    The backbone runs in evaluation mode, on the device of its parameters; afterwards each of its modules is in the mode
    that it was in before.

    Args:
        backbone: Takes images (B, C, H, W) and returns a sequence of outputs, of which the last counts: tokens (B, N,
            D), a feature map (B, D, h, w) or features that are averaged already (B, D). Masks and class tokens of
            other methods' backbones are left out, see :func:`last_output`.
        images: Images (n, C, H, W), on any device.
        batch_size: Images in a step, B.
        preprocess: What turns a batch, already on the backbone's device, into its input, such as the normalisation of
            uint8 images. By default batches are passed as they are.
        bf16: Whether the backbone computes in bfloat16 where that is safe. Tokens are averaged in float32.

    Returns:
        Features (n, D), float32, on the CPU.

    Raises:
        ValueError: If there is no image, if ``batch_size`` is below 1, or if the output has another shape.

    Paper:
        Section 4.1: the decoder and the masks are dropped, and the outputs of all tokens are averaged.

    Example:
        >>> class Rows(nn.Module):
        ...     def forward(self, images):
        ...         return (images[:, 0],)
        >>> extract_features(Rows(), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
        tensor([[2., 3.]])
    """
    if batch_size < 1:
        raise ValueError(f'batch_size={batch_size} must be at least 1')
    if images.ndim != 4 or not len(images):
        raise ValueError(f'images have shape {tuple(images.shape)}, expected (n, C, H, W) with n of at least 1')
    device = next((parameter.device for parameter in backbone.parameters()), images.device)
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        features = []
        for batch in images.split(batch_size):
            batch = batch.to(device)
            inputs = batch if preprocess is None else preprocess(batch)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                last = last_output(backbone, inputs)
            features.append(_pool(last).cpu())
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(features)


def _pool(last: Any) -> Tensor:
    """Average an output over its tokens, giving (B, D)."""
    if not isinstance(last, Tensor) or last.ndim not in (2, 3, 4):
        what = tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__
        raise ValueError(f'the backbone returned {what}, expected a tensor (B, N, D), (B, D, h, w) or (B, D)')
    last = last.float()  # before averaging: bfloat16 has 8 bits
    if last.ndim == 4:
        return last.mean((2, 3))
    return last.mean(1) if last.ndim == 3 else last
