"""Features of a frozen backbone."""

import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

_MASKS = ('mask', 'importance')  # what mmpretrain's pre-training backbones call the mask that they draw or are given


def normalise(data_preprocessor: nn.Module, images: Tensor) -> Tensor:
    """Return images (B, C, H, W), 0 .. 255, as a data preprocessor passes them to its model outside training.

    Raises:
        ValueError: If it makes several views of each image.
    """
    inputs = data_preprocessor({'inputs': images, 'data_samples': None}, training=False)['inputs']
    if not isinstance(inputs, Tensor) or len(inputs) != len(images):
        raise ValueError(f'{type(data_preprocessor).__name__} makes several views: features need a single one')
    return inputs


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
    that it was in before. Backbones of mmpretrain that mask images by themselves (MAE, BEiT, SimMIM, MILAN) see whole
    ones, and class and other extra tokens (``num_extra_tokens``) are left out.

    Args:
        backbone: Takes images (B, C, H, W) and returns an output, or a sequence of which the last counts: tokens (B, N,
            D), a feature map (B, D, h, w) or features that are averaged already (B, D).
        images: Images (n, C, H, W), on any device.
        batch_size: Images in a step, B.
        preprocess: What turns a batch, already on the backbone's device, into its input, see :func:`normalise`. By
            default batches are passed as they are.
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
            with torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext():
                tokens = _last_output(backbone, inputs)
            features.append(_pool(tokens).cpu())
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(features)


def _last_output(backbone: nn.Module, images: Tensor) -> Any:
    accepted = inspect.signature(backbone.forward).parameters
    outputs = backbone(images, **{name: None for name in _MASKS if name in accepted})
    last = outputs[-1] if isinstance(outputs, Sequence) else outputs
    if isinstance(last, Tensor) and last.ndim == 3:
        return last[:, getattr(backbone, 'num_extra_tokens', 0) :]
    return last


def _pool(last: Any) -> Tensor:
    """Average an output over its tokens, giving (B, D)."""
    if not isinstance(last, Tensor) or last.ndim not in (2, 3, 4):
        what = tuple(last.shape) if isinstance(last, Tensor) else type(last).__name__
        raise ValueError(f'the backbone returned {what}, expected a tensor (B, N, D), (B, D, h, w) or (B, D)')
    last = last.float()  # before averaging: bfloat16 has 8 bits
    if last.ndim == 4:
        return last.mean((2, 3))
    return last.mean(1) if last.ndim == 3 else last


def check_features(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    """Check the features (n, D), (m, D) and classes (n,), (m,) of a training and a test set.

    Raises:
        ValueError: If shapes do not fit, a set is empty, a feature is not finite or a class is no integer from 0.
    """
    for name, x, y in (('train', train_x, train_y), ('test', test_x, test_y)):
        if x.ndim != 2 or not x.numel():
            raise ValueError(f'{name} features have shape {tuple(x.shape)}, expected (n, D), not empty')
        if y.shape != x.shape[:1]:
            raise ValueError(f'{len(x)} {name} features do not match labels of shape {tuple(y.shape)}')
        if y.is_floating_point() or y.is_complex() or int(y.min()) < 0:
            raise ValueError(f'{name} labels are {y.dtype} from {y.min()}, expected integers from 0')
        bad = ~x.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f'{int(bad.sum())} of {len(bad)} {name} features are NaN or infinite, the first is number '
                f'{int(bad.int().argmax())}: check whether the training diverged'
            )
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(f'train features have {train_x.shape[1]} dimensions, test features {test_x.shape[1]}')
