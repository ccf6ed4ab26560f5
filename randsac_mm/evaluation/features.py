"""Features of a frozen backbone."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def normalise(data_preprocessor: nn.Module, images: Tensor) -> Tensor:
    """Return images (B, C, H, W), 0 .. 255, as a data preprocessor passes them to its model outside training."""
    return data_preprocessor({'inputs': images, 'data_samples': None}, training=False)['inputs']


@torch.no_grad()
def extract_features(
    backbone: nn.Module,
    images: Tensor,
    batch_size: int = 256,
    preprocess: Callable[[Tensor], Tensor] | None = None,
    average: bool = True,
) -> Tensor:
    """Compute the last layer's output of a backbone, averaged over tokens, in evaluation mode and without masks.

    Class and other extra tokens (``num_extra_tokens``) are left out. Afterwards each module is in its former mode.

    Args:
        backbone: Takes images (B, C, H, W) and returns an output, or a sequence of which the last counts: tokens (B, N,
            D), a feature map (B, D, h, w) or features that are averaged already (B, D).
        images: Images (n, C, H, W), on any device.
        batch_size: Images in a step, B.
        preprocess: Turns a batch, on the backbone's device, into its input, see :func:`normalise`; default: nothing.
        average: Whether to average over tokens.

    Returns:
        Features (n, D), or without ``average`` (n, D, h, w), float32, on the CPU.

    Raises:
        ValueError: If there is no image, or the output has another shape.

    Paper:
        Section 4.1: the decoder and the masks are dropped, and the outputs of all tokens are averaged.

    Example:
        >>> class Rows(nn.Module):
        ...     def forward(self, images):
        ...         return (images[:, 0],)
        >>> extract_features(Rows(), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]))
        tensor([[2., 3.]])
    """
    if images.ndim != 4 or not len(images):
        raise ValueError(f'images have shape {tuple(images.shape)}, expected (n, C, H, W) with n of at least 1')
    device = next((parameter.device for parameter in backbone.parameters()), images.device)
    modes = [(module, module.training) for module in backbone.modules()]
    backbone.eval()
    try:
        features = []
        for batch in images.split(batch_size):
            inputs = batch.to(device) if preprocess is None else preprocess(batch.to(device))
            features.append(_compute(backbone, inputs, average).cpu())
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(features)


def _compute(backbone: nn.Module, images: Tensor, average: bool) -> Tensor:
    """Compute the last output, as a map or averaged over its tokens, in float32: bfloat16 has 8 bits."""
    # mmpretrain's MAE, BEiT and SimMIM mask images by themselves unless they get None.
    options: dict[str, Any] = {'mask': None} if 'mask' in inspect.signature(backbone.forward).parameters else {}
    kind = getattr(backbone, 'out_type', None)
    if kind and not average:
        backbone.out_type = 'featmap'
    try:
        outputs = backbone(images, **options)
    finally:
        if kind:
            backbone.out_type = kind
    last = outputs[-1] if isinstance(outputs, Sequence) else outputs
    if last.ndim == 4:
        return last.float().mean((2, 3)) if average else last.float()
    if last.ndim == 3 and average:
        return last[:, getattr(backbone, 'num_extra_tokens', 0) :].float().mean(1)
    if last.ndim == 2 and average:
        return last.float()
    others = '(B, N, D), (B, D) or ' if average else ''
    raise ValueError(f'the backbone returned {tuple(last.shape)}, expected {others}(B, D, h, w)')


def check_features(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    """Check the features (n, D), (m, D) and classes (n,), (m,) of a training and a test set.

    Raises:
        ValueError: If shapes do not fit, a set is empty, a feature is not finite or a class is no integer from 0.
    """
    for name, x, y in (('train', train_x, train_y), ('test', test_x, test_y)):
        if x.ndim != 2 or not x.numel() or x.shape[1] != train_x.shape[1] or y.shape != x.shape[:1]:
            raise ValueError(
                f'{name} features have shape {tuple(x.shape)} and labels {tuple(y.shape)}, expected (n, D) and (n,), '
                f'not empty, D as in the training features {tuple(train_x.shape)}'
            )
        if y.is_floating_point() or int(y.min()) < 0:
            raise ValueError(f'{name} labels are {y.dtype} from {y.min()}, expected integers from 0')
        bad = ~x.isfinite().all(1)
        if bad.any():
            raise ValueError(
                f'{int(bad.sum())} of {len(bad)} {name} features are NaN or infinite, the first is number '
                f'{int(bad.int().argmax())}: check whether the training diverged'
            )
