"""The fast protocol: what a checkpoint's features are worth, beside an untrained encoder and raw pixels."""

import contextlib
import copy
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from randsac_mm.transfer import load_backbone

from .judge import evaluate_backbone, judge_features
from .labelled import LabelledData
from .linear import ridge_accuracy

PRETRAINED, UNTRAINED, PIXELS = 'encoder, pre-trained', 'encoder, untrained', 'raw pixels'
_PIXEL_SIDE = 32  # larger images are judged at this size: linear judges of raw pixels need their second moments
_RIDGE = 0.1


def build_encoder(cfg: Config, checkpoint: str | Path | None = None, seed: int = 0) -> nn.Module:
    """Build the backbone of a config.

    Args:
        cfg: Config of a pre-training, a probe, a fine-tuning, ...: anything with ``model.backbone``.
        checkpoint: Whose weights it gets, every one of them. None: it stays untrained.
        seed: Of the untrained weights. Torch's global generator is left alone.

    Returns:
        The backbone in evaluation mode.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If there is no backbone, or the checkpoint does not fit it.
    """
    settings = copy.deepcopy((cfg.get('model') or {}).get('backbone'))
    if not settings:
        raise ValueError('the config has no model.backbone: give the one that the checkpoint was trained with')
    settings.pop('init_cfg', None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = MODELS.build(settings)
        with without_log():
            backbone.init_weights()
    if checkpoint is not None:
        load_backbone(backbone, checkpoint)
    backbone.eval()
    return backbone


def make_preprocess(cfg: Config, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Make what turns images into the input of a config's encoder: its size and its normalisation, no augmentation.

    Args:
        cfg: The config; ``model.data_preprocessor`` has ``mean`` and ``std``, or neither.
        size: Height and width in pixels; images of another size are resized, bicubic and antialiased.

    Returns:
        A function of images (B, C, H, W), RGB or grey, 0 .. 255.
    """
    settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean, std = (
        torch.tensor(settings[key]).view(-1, 1, 1) if settings.get(key) is not None else None for key in ('mean', 'std')
    )

    def preprocess(images: Tensor) -> Tensor:
        images = _resize(images.float(), size)
        return images if mean is None else (images - mean.to(images)) / std.to(images)

    return preprocess


def evaluate_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    data: LabelledData,
    raw: bool = False,
    untrained: bool = False,
    seed: int = 0,
    device: str | torch.device = 'cpu',
    batch_size: int = 256,
    bf16: bool = False,
    l2: float = 1e-3,
    k: int = 20,
) -> dict[str, Any]:
    """Judge the features of a checkpoint by nearest neighbours and a linear probe, on images without augmentation.

    Args:
        cfg: Its config.
        checkpoint: The checkpoint of any training of ours; only its backbone is used.
        data: Labelled images.
        raw: Whether to judge raw pixels as well, for comparison; also by least squares, see :func:`fit_ridge`.
        untrained: Whether to judge the same encoder without training as well.
        seed: Of the untrained weights.
        device: Where the encoder runs.
        batch_size: Images in a step of the encoder.
        bf16: Whether it computes in bfloat16.
        l2: Strength of the linear probe's penalty.
        k: Number of neighbours.

    Returns:
        Plain values, for a JSON file: accuracies in percent, seconds, sizes and settings.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint does not fit the config, or the images do not fit the encoder.

    Paper:
        Section 5.1 and D.3, the linear probe; here fitted to convergence on features of unchanged images.
    """
    accuracy, seconds = {}, {}
    size = _input_size(build_encoder(cfg), data)
    preprocess = make_preprocess(cfg, size)
    for name, path in ((PRETRAINED, checkpoint), (UNTRAINED, None)):
        if path is None and not untrained:
            continue
        encoder = build_encoder(cfg, path, seed).to(device)
        start = time.perf_counter()
        accuracy[name] = evaluate_backbone(encoder, preprocess, data.train, data.test, l2, k, batch_size, bf16)
        seconds[name] = time.perf_counter() - start
    if raw:
        start = time.perf_counter()
        accuracy[PIXELS] = judge_pixels(data, l2, k)
        seconds[PIXELS] = time.perf_counter() - start
    return {
        'checkpoint': str(checkpoint),
        'data': data.name,
        'train_images': len(data.train.labels),
        'test_images': len(data.test.labels),
        'classes': int(data.train.labels.max()) + 1,
        'image_size': list(size),
        'accuracy_percent': accuracy,
        'seconds': {name: round(value, 1) for name, value in seconds.items()},
        'settings': {
            'k': k,
            'temperature': 0.07,
            'l2': l2,
            'ridge_l2': _RIDGE,
            'precision_of_encoder': 'bfloat16' if bf16 else 'float32',
            'seed': seed,
            'device': str(device),
        },
    }


def judge_pixels(data: LabelledData, l2: float = 1e-3, k: int = 20) -> dict[str, float]:
    """Judge pixel values as if they were features; images with a side above 32 pixels are made smaller.

    Args:
        data: Labelled images.
        l2: Strength of the linear probe's penalty.
        k: Number of neighbours.

    Returns:
        Accuracies in percent: ``knn``, ``linear``, and ``ridge`` with the penalty 0.1.
    """
    train_x, test_x = (_pixels(part.images) for part in (data.train, data.test))
    scores = judge_features(train_x, data.train.labels, test_x, data.test.labels, l2, k)
    ridge = ridge_accuracy(train_x, data.train.labels, test_x, data.test.labels, _RIDGE)
    return {**scores._asdict(), 'ridge': ridge}


def format_accuracy(report: dict[str, Any]) -> str:
    """Write the accuracies of :func:`evaluate_checkpoint` as a table for people."""
    lines = [
        f'{report["data"]}: {report["train_images"]} images to learn from, {report["test_images"]} held out; '
        f'frozen features, accuracy in percent',
        f'{"features":<24}{"kNN":>8}{"linear":>8}{"ridge":>8}{"seconds":>9}',
    ]
    for name, row in report['accuracy_percent'].items():
        cells = ''.join(f'{row[key]:8.2f}' if key in row else f'{"":8}' for key in ('knn', 'linear', 'ridge'))
        lines.append(f'{name:<24}{cells}{report["seconds"][name]:9.1f}')
    return '\n'.join(lines)


@contextlib.contextmanager
def without_log() -> Iterator[None]:
    """Hold back what mmengine logs about each tensor that it initialises."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.INFO))
    try:
        yield
    finally:
        logging.disable(level)


def _input_size(backbone: nn.Module, data: LabelledData) -> tuple[int, int]:
    """Give the size of a backbone's images, after a look whether it takes these."""
    channels, wanted = data.train.images.shape[1], getattr(backbone, 'in_channels', None)
    if wanted not in (None, channels):
        raise ValueError(
            f'the images of {data.name} have {channels} channel(s) and the encoder takes {wanted}: choose other data, '
            'or a checkpoint that was trained on such images'
        )
    size = getattr(backbone, 'img_size', None) or data.train.images.shape[2:]
    return (size, size) if isinstance(size, int) else tuple(size)


def _pixels(images: Tensor) -> Tensor:
    """Flatten images (n, C, H, W) to (n, D), values 0 .. 1."""
    if max(images.shape[2:]) > _PIXEL_SIDE:
        small = [_resize(part.float(), (_PIXEL_SIDE, _PIXEL_SIDE)) for part in images.split(256)]
        return torch.cat(small).flatten(1) / 255
    return images.flatten(1).float() / 255


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode='bicubic', antialias=True).clamp(0, 255)
