"""Accuracy of frozen features: of an encoder, of a checkpoint beside an untrained encoder, of raw pixels."""

import copy
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from randsac_mm.transfer import load_backbone

from .features import extract_features, normalise
from .knn import knn_accuracy
from .labelled_images import LabelledImages, find_labelled, load_labelled
from .linear_probe import linear_probe_accuracy, ridge_accuracy

_PIXEL_SIDE = 32  # larger images are made smaller before their raw pixels are classified


class Scores(NamedTuple):
    """Accuracies on held-out images, in percent: of nearest neighbours and of the linear probe."""

    knn: float
    linear: float


def evaluate_features(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> Scores:
    """Classify features (m, D) of classes (m,) by training features (n, D) of classes (n,), n at least 20.

    Raises:
        ValueError: If sizes do not match, a feature is not finite, or no training image has a test image's class.
    """
    data = (train_x, train_y, test_x, test_y)
    if unknown := sorted({*test_y.tolist()} - {*train_y.tolist()}):
        raise ValueError(
            f'labels {unknown[:10]} of test images occur in none of {len(train_y)} training images: add some'
        )
    return Scores(knn_accuracy(*data), linear_probe_accuracy(*data))


def evaluate_backbone(
    backbone: nn.Module, preprocess: Callable[[Tensor], Tensor], train: LabelledImages, test: LabelledImages
) -> Scores:
    """Classify held-out images by the averaged tokens of a frozen encoder, see :func:`extract_features`.

    Paper:
        Section 5.1 (linear probing of the frozen encoder) and D.3 (average-pooled features).
    """
    train_x, test_x = (extract_features(backbone, part.images, preprocess=preprocess) for part in (train, test))
    return evaluate_features(train_x, train.labels, test_x, test.labels)


def evaluate_pixels(train: LabelledImages, test: LabelledImages) -> dict[str, float]:
    """Classify held-out images by their pixel values; images with a side above 32 pixels are made smaller.

    Returns:
        Accuracies in percent: ``knn``, ``linear`` and ``ridge``.
    """
    train_x, test_x = (_flatten_pixels(part.images) for part in (train, test))
    features = (train_x, train.labels, test_x, test.labels)
    return {**evaluate_features(*features)._asdict(), 'ridge': ridge_accuracy(*features)}


def evaluate_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    where: str | None = None,
    subset: int | None = None,
    raw: bool = False,
    untrained: bool = False,
    seed: int = 0,
    check: bool = True,
) -> dict[str, Any]:
    """Evaluate the features of a checkpoint by nearest neighbours and a linear probe, on images without augmentation.

    Args:
        cfg: Its config.
        checkpoint: The checkpoint of any training of ours; only its backbone is used.
        where: Labelled data, see :func:`load_labelled`; default: those of the config.
        subset: Number of training images, each class by its share; default: all.
        raw: Whether to evaluate raw pixels as well, also by ridge regression.
        untrained: Whether to evaluate the same encoder without training as well.
        seed: Of the subset and of the untrained weights.
        check: Whether to check a folder's files before they are read.

    Returns:
        Plain values, for a JSON file: accuracies in percent, seconds, sizes and settings.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or no such data.
        ValueError: If the checkpoint does not fit the config, or the images do not fit the encoder.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    encoder = build_encoder(cfg, checkpoint)
    size, channels = getattr(encoder, 'img_size', None), getattr(encoder, 'in_channels', 3)
    data = load_labelled(where or find_labelled(cfg), size or (224, 224), channels, subset, seed, check)
    size = size or tuple(data.train.images.shape[2:])
    if data.train.images.shape[1] != channels:
        raise ValueError(
            f'the images of {data.name} have {data.train.images.shape[1]} channel(s) and the encoder takes {channels}: '
            'choose other data, or a checkpoint that was trained on such images'
        )
    encoders: dict[str, nn.Module | None] = {'encoder, pre-trained': encoder}
    if untrained:
        encoders['encoder, untrained'] = build_encoder(cfg, seed=seed)
    if raw:
        encoders['raw pixels'] = None
    preprocess = make_preprocess(cfg, size, device)
    accuracy, seconds = {}, {}
    for name, module in encoders.items():
        start = time.perf_counter()
        if module is None:
            accuracy[name] = evaluate_pixels(data.train, data.test)
        else:
            accuracy[name] = evaluate_backbone(module.to(device), preprocess, data.train, data.test)._asdict()
        seconds[name] = round(time.perf_counter() - start, 1)
    return {
        'checkpoint': str(checkpoint),
        'data': data.name,
        'train_images': len(data.train.labels),
        'test_images': len(data.test.labels),
        'classes': int(data.train.labels.max()) + 1,
        'image_size': list(size),
        'accuracy_percent': accuracy,
        'seconds': seconds,
        'settings': {'k': 20, 'temperature': 0.07, 'l2': 1e-3, 'ridge_l2': 0.1, 'seed': seed, 'device': device},
    }


def build_encoder(cfg: Config, checkpoint: str | Path | None = None, seed: int = 0) -> nn.Module:
    """Build the backbone of a config: with the weights of a checkpoint, or untrained with those of a seed.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the config has no ``model.backbone``, or the checkpoint does not fit it.
    """
    settings = (cfg.get('model') or {}).get('backbone')
    if not settings:
        raise ValueError('the config has no model.backbone: use the one that the checkpoint was trained with')
    backbone = build_untrained({key: value for key, value in settings.items() if key != 'init_cfg'}, seed)
    if checkpoint is not None:
        load_backbone(backbone, checkpoint)
    return backbone


def build_untrained(settings: dict, seed: int) -> nn.Module:
    """Build a module of mmpretrain with the weights of a seed; torch's random state is put back."""
    logging.disable(logging.INFO)  # mmengine logs every tensor that it initialises
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = MODELS.build(copy.deepcopy(settings))
            module.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    return module


def make_preprocess(cfg: Config, size: tuple[int, int], device: str) -> Callable[[Tensor], Tensor]:
    """Make what resizes (bicubic) and normalises images (B, C, H, W), RGB or grey, for a config's encoder."""
    settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    # Without its `to_rgb`: these images are RGB, not BGR as mmcv reads them.
    preprocessor = ImgDataPreprocessor(settings.get('mean'), settings.get('std')).to(device)
    return lambda images: normalise(preprocessor, _resize(images.float(), size))


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


def _flatten_pixels(images: Tensor) -> Tensor:
    """Flatten images (n, C, H, W) to (n, D), values 0 .. 1."""
    size = tuple(images.shape[2:]) if max(images.shape[2:]) <= _PIXEL_SIDE else (_PIXEL_SIDE, _PIXEL_SIDE)
    return torch.cat([_resize(part.float(), size) for part in images.split(256)]).flatten(1) / 255


def _resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(images.shape[2:]) == tuple(size):
        return images
    return F.interpolate(images, size, mode='bicubic', antialias=True).clamp(0, 255)
