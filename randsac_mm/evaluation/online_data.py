"""Labelled images for the online probe: a fixed, stratified part of any data set, kept as uint8."""

from collections.abc import Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from mmpretrain.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset, Subset

from randsac_mm.datasets import InMemoryDataset


class ImageShare(NamedTuple):
    """Hold this process's share of a data set, and the labels of all of it.

    Attributes:
        images: Images number ``rank``, ``rank + world_size``, ... of the set, (m, C, H, W), uint8, in main memory; None
            if there are more processes than images.
        labels: Labels of all n images, (n,), int64.
    """

    images: Tensor | None
    labels: Tensor


def read_labels(dataset: Dataset, name: str) -> np.ndarray:
    """Read the label of every image, without decoding any where the data set can do so.

    Args:
        dataset: Has ``labels`` (those of :mod:`randsac_mm.datasets`), ``get_data_info`` (mmengine's) or items that hold
            ``gt_label`` or ``data_samples``.
        name: What to call it in messages.

    Returns:
        Labels (n,), int64.

    Raises:
        ValueError: If there is no image, or an image has no label, or several.
    """
    if not isinstance(dataset, Sized) or not len(dataset):
        raise ValueError(f'{name} has no images')
    labels = getattr(dataset, 'labels', None)
    if labels is None:
        info_of = getattr(dataset, 'get_data_info', dataset.__getitem__)
        labels = [_label(info_of(idx), idx, name) for idx in range(len(dataset))]
    return np.asarray(labels, dtype=np.int64)


def _label(info: dict, idx: int, name: str) -> int:
    label = info.get('gt_label', getattr(info.get('data_samples'), 'gt_label', None))
    if label is None:
        raise ValueError(
            f'image {idx} of {name} has no gt_label: probing needs labels, so use a labelled data set, such as '
            "dict(type='CustomDataset', data_root=..., pipeline=[...]) with one folder for each class"
        )
    if np.size(label) != 1:
        raise ValueError(f'image {idx} of {name} has {np.size(label)} labels, but probing needs one for each image')
    return int(label)


def stratified(labels: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """Choose images such that each class keeps its share, the same ones for the same seed.

    Args:
        labels: Labels (n,).
        size: How many to choose; all if None, or if there are not more.
        seed: Decides which ones. No global generator is used.

    Returns:
        Indices of the chosen ones, ascending.

    Example:
        >>> labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
        >>> np.bincount(labels[stratified(labels, 10, seed=0)]).tolist()
        [6, 3, 1]
    """
    count = len(labels)
    if size is None or size >= count:
        return np.arange(count)
    order = np.random.default_rng(seed).permutation(count)
    place = np.empty(count)  # in its class, as a share of the class: 0 the first one, 1 the last one
    for label in np.unique(labels):
        members = order[labels[order] == label]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(place[order], kind='stable')[:size]])


def load_images(
    source: dict | Dataset, name: str, size: int | None, seed: int, max_bytes: int, rank: int, world_size: int
) -> ImageShare:
    """Build a data set, choose a part of it and decode this process's share of that, once.

    Args:
        source: The data set, or its config. As for :class:`~randsac_mm.datasets.InMemoryDataset`, its pipeline may
            load, resize and crop but must not be random, and must end at one size.
        name: What to call it in messages.
        size: How many images, see :func:`stratified`.
        seed: Which ones.
        max_bytes: Most memory that the share may take.
        rank: Number of this process.
        world_size: Number of processes.

    Returns:
        Images and labels.

    Raises:
        ValueError: If an image is not usable, has no label, or the share needs more than ``max_bytes``.
    """
    dataset: Any = DATASETS.build(source) if isinstance(source, dict) else source
    name = f'{name} ({type(dataset).__name__})'
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if hasattr(dataset, 'test_mode'):
        dataset.test_mode = True  # in training mode mmengine replaces a broken file by another image, keeping no label
    labels = read_labels(dataset, name)
    chosen = stratified(labels, size, seed)
    mine = chosen[rank::world_size].tolist()
    labels = torch.from_numpy(labels[chosen])
    if not mine:
        return ImageShare(None, labels)
    try:
        first = InMemoryDataset(Subset(dataset, mine[:1]), device='cpu').images
        if len(mine) * first.numel() > max_bytes:
            raise ValueError(
                f'{len(mine)} images of shape {tuple(first.shape[1:])} need {len(mine) * first.numel()} bytes, more '
                f'than max_bytes={max_bytes} leaves: use fewer images (max_train, max_test), a smaller crop, or raise '
                'max_bytes'
            )
        return ImageShare(InMemoryDataset(Subset(dataset, mine), device='cpu', max_bytes=max_bytes).images, labels)
    except ValueError as error:
        raise ValueError(f'{name}: {error}') from error
