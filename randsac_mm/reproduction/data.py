"""Labelled images of a run's data set, for judging what it learned."""

from functools import lru_cache

import torch
from mmengine.config import ConfigDict
from torch import Tensor

from randsac_mm.datasets import InMemoryDataset
from randsac_mm.evaluation import LabelledImages


def labelled_images(dataset: ConfigDict, split: str, count: int | None) -> LabelledImages:
    """Read a split of a run's data set into main memory; kept for the next run of this process.

    Args:
        dataset: Config of the innermost training data set, such as that of CIFAR-10.
        split: ``'train'`` or ``'test'``.
        count: How many images, the first ones; None: all.

    Returns:
        Images (n, C, H, W), uint8, and labels (n,).

    Raises:
        ValueError: If there are no labels.
    """
    data = _read(dataset.type, dataset.get('data_root'), split)
    return LabelledImages(data.images[:count], data.labels[:count])


def count_images(dataset: ConfigDict) -> int:
    """Count the training images of a whole data set."""
    return len(labelled_images(dataset, 'train', None).labels)


@lru_cache(maxsize=4)
def _read(kind: str, root: str | None, split: str) -> LabelledImages:
    where = {} if root is None else {'data_root': root}
    data = InMemoryDataset(dict(type=kind, split=split, **where), device='cpu')
    if data.labels is None:
        raise ValueError(f'{kind} has no labels for its {split} images')
    return LabelledImages(data.images, data.labels)


def pixels(images: Tensor) -> Tensor:
    """Give images (n, C, H, W) as features (n, C * H * W), from 0 to 1."""
    return images.flatten(1).to(torch.float32) / 255
