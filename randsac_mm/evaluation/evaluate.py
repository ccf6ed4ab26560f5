"""Accuracy of frozen features: of an encoder, of a checkpoint beside an untrained encoder, of raw pixels."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn

from .features import extract_features
from .frozen_encoder import FrozenEncoder
from .knn import knn_accuracy
from .labelled_images import LabelledImages, find_labelled, load_labelled
from .linear_probe import linear_probe_accuracy, ridge_accuracy

_PIXEL_SIDE = 32  # larger images are made smaller before their raw pixels are classified


class Scores(NamedTuple):
    """Accuracies on held-out images, in percent: of nearest neighbours and of the linear probe."""

    knn: float
    linear: float


def evaluate_features(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int = 20) -> Scores:
    """Classify features (m, D) of classes (m,) by training features (n, D) of classes (n,), n at least k.

    Raises:
        ValueError: If sizes do not match, a feature is not finite, or no training image has a test image's class.
    """
    data = (train_x, train_y, test_x, test_y)
    if unknown := sorted({*test_y.tolist()} - {*train_y.tolist()}):
        raise ValueError(
            f'labels {unknown[:10]} of test images occur in none of {len(train_y)} training images: add some'
        )
    return Scores(knn_accuracy(*data, k), linear_probe_accuracy(*data))


def evaluate_backbone(
    backbone: nn.Module, preprocess: Callable[[Tensor], Tensor], train: LabelledImages, test: LabelledImages
) -> Scores:
    """Classify held-out images by the averaged tokens of a frozen encoder, see :func:`extract_features`.

    Paper:
        Section 5.1 (linear probing of the frozen encoder) and D.3 (average-pooled features).
    """
    train_x, test_x = (extract_features(backbone, part.images, preprocess=preprocess) for part in (train, test))
    return evaluate_features(train_x, train.labels, test_x, test.labels)


def evaluate_pixels(train: LabelledImages, test: LabelledImages, k: Sequence[int] = (20,)) -> dict[str, float]:
    """Classify held-out images by their pixel values; images with a side above 32 pixels are made smaller.

    Returns:
        Accuracies in percent: ``knn``, or ``knn_1`` and so on for several k, ``linear`` and ``ridge``.
    """
    train_x, test_x = (_flatten_pixels(part.images) for part in (train, test))
    features = (train_x, train.labels, test_x, test.labels)
    return {**_classify(features, k), 'ridge': ridge_accuracy(*features)}


def _classify(features: tuple[Tensor, Tensor, Tensor, Tensor], k: Sequence[int]) -> dict[str, float]:
    first, linear = evaluate_features(*features, k[0])
    if len(k) == 1:
        return {'knn': first, 'linear': linear}
    rest = {f'knn_{number}': knn_accuracy(*features, number) for number in k[1:]}
    return {f'knn_{k[0]}': first, **rest, 'linear': linear}


def evaluate_checkpoint(
    cfg: Config,
    checkpoint: str | Path,
    where: str | None = None,
    subset: int | None = None,
    raw: bool = False,
    untrained: bool = False,
    seed: int = 0,
    check: bool = True,
    k: Sequence[int] = (20,),
) -> dict[str, Any]:
    """Evaluate the features of a checkpoint by nearest neighbours and a linear probe, on images without augmentation.

    What is done to images of other sizes than the encoder's: :class:`~randsac_mm.evaluation.FrozenEncoder`.

    Args:
        cfg: Its config.
        checkpoint: The checkpoint of any training of ours; only its backbone is used.
        where: Labelled data, see :func:`load_labelled`; default: those of the config.
        subset: Number of training images, each class by its share; default: all.
        raw: Whether to evaluate raw pixels as well, also by ridge regression.
        untrained: Whether to evaluate the same encoder without training as well.
        seed: Of the subset and of the untrained weights.
        check: Whether to check a folder's files before they are read.
        k: Numbers of neighbours.

    Returns:
        Plain values, for a JSON file: accuracies in percent, seconds, sizes and settings.

    Raises:
        FileNotFoundError: If there is no such checkpoint, or no such data.
        ValueError: If the checkpoint does not fit the config, or the images do not fit the encoder.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    encoder = FrozenEncoder(cfg, checkpoint, device)
    data = load_labelled(where or find_labelled(cfg), encoder, subset, seed, check)
    channels, count = data.train.images.shape[1], len(data.train.labels)
    if channels != encoder.channels:
        raise ValueError(
            f'the images of {data.name} have {channels} channel(s) and the encoder takes {encoder.channels}: '
            'choose other data, or a checkpoint that was trained on such images'
        )
    if max(k) > count:
        raise ValueError(f'k={max(k)} neighbours are more than the {count} training images: choose a smaller --k')
    encoders: dict[str, FrozenEncoder | None] = {'encoder, pre-trained': encoder}
    if untrained:
        encoders['encoder, untrained'] = FrozenEncoder(cfg, None, device, seed)
    if raw:
        encoders['raw pixels'] = None
    accuracy, seconds, common = {}, {}, {'seed': seed, 'device': device}
    for name, module in encoders.items():
        start = time.perf_counter()
        if module is None:
            accuracy[name] = evaluate_pixels(data.train, data.test, k)
        else:
            parts = [extract_features(module.backbone, part.images, 256, module.preprocess) for part in data[1:]]
            accuracy[name] = _classify((parts[0], data.train.labels, parts[1], data.test.labels), k)
        seconds[name] = round(time.perf_counter() - start, 1)
    return {
        'checkpoint': str(checkpoint),
        'data': data.name,
        'train_images': count,
        'test_images': len(data.test.labels),
        'classes': int(data.train.labels.max()) + 1,
        'image_size': list(encoder.image_size if encoder.has_size else data.train.images.shape[2:]),
        'preparation': encoder.preparation,
        'accuracy_percent': accuracy,
        'seconds': seconds,
        'settings': {'k': k if len(k) > 1 else k[0], 'temperature': 0.07, 'l2': 1e-3, 'ridge_l2': 0.1, **common},
    }


def format_accuracy(report: dict[str, Any]) -> str:
    """Write the accuracies of :func:`evaluate_checkpoint` as a table for people."""
    rows = report['accuracy_percent']
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    heads = ''.join(f'{key.replace("knn", "kNN"):>8}' for key in keys)
    lines = [
        f'{report["data"]}: {report["train_images"]} images to learn from, {report["test_images"]} held out; '
        f'frozen features, accuracy in percent',
        report['preparation'],
        f'{"features":<24}{heads}{"seconds":>9}',
    ]
    for name, row in rows.items():
        cells = ''.join(f'{row[key]:8.2f}' if key in row else f'{"":8}' for key in keys)
        lines.append(f'{name:<24}{cells}{report["seconds"][name]:9.1f}')
    return '\n'.join(lines)


def _flatten_pixels(images: Tensor) -> Tensor:
    """Flatten images (n, C, H, W) to (n, D), values 0 .. 1."""
    if max(images.shape[2:]) > _PIXEL_SIDE:
        resize = partial(F.interpolate, size=(_PIXEL_SIDE, _PIXEL_SIDE), mode='bicubic', antialias=True)
        images = torch.cat([resize(part.float()).clamp(0, 255) for part in images.split(256)])
    return images.float().flatten(1) / 255
