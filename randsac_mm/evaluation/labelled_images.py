"""Labelled images in main memory, as uint8: whole data sets, or a stratified part of any of them."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from torch import Tensor
from torch.utils.data import Dataset, Subset

from randsac_mm.datasets import InMemoryDataset, LabelledImageFolder

from .frozen_encoder import FrozenEncoder


class LabelledImages(NamedTuple):
    """Images (n, C, H, W), pixel values 0 .. 255, and their labels (n,), integers from 0."""

    images: Tensor
    labels: Tensor


class LabelledData(NamedTuple):
    """A labelled data set: what and where it is, images to learn from, held-out images; uint8, RGB or grey."""

    name: str
    train: LabelledImages
    test: LabelledImages


def load_labelled(
    where: str, encoder: FrozenEncoder, subset: int | None = None, seed: int = 0, check: bool = True
) -> LabelledData:
    """Read a labelled data set.

    Args:
        where: ``'digits'``, a folder with CIFAR-10 or CIFAR-100 in it (``cifar-10-batches-py``, ``cifar-100-python``),
            or one with ``train/CLASS/IMAGE`` and ``val/CLASS/IMAGE`` (or ``test/...``), or with ``CLASS/IMAGE``, of
            which every fifth one is held out.
        encoder: The one that a folder's images are fitted to. Digits and CIFAR stay as they are.
        subset: How many training images to read, each class by its share; default: all. The test set stays whole.
        seed: Which ones.
        check: Whether to check a folder's files before they are read, see ``LabelledImageFolder``.

    Raises:
        FileNotFoundError: If there is no such folder, or no data set in it.
        ValueError: If the held-out images have another class, or ``subset`` is below 1.
    """
    name, train, test = _datasets(where, encoder, 'header' if check else 'none')
    return LabelledData(name, load_images(train, 'training set', subset, seed), load_images(test, 'test set'))


def find_labelled(cfg: Config) -> str:
    """Return where the training data set of a config is, as :func:`load_labelled` takes it.

    Raises:
        ValueError: If it is none that has labels.

    Example:
        >>> dataset = dict(type='PreparedCIFAR10', data_root='data/cifar10')
        >>> find_labelled(Config(dict(train_dataloader=dict(dataset=dataset))))
        'data/cifar10'
    """
    dataset = cfg.train_dataloader.dataset
    while isinstance(dataset.get('dataset'), dict):
        dataset = dataset.dataset
    if dataset.type == 'Digits':
        return 'digits'
    labelled = ('PreparedCIFAR10', 'CIFAR10', 'CIFAR100', 'ImageNet', 'CustomDataset', 'LabelledImageFolder')
    if dataset.type in labelled and dataset.get('data_root'):
        return dataset.data_root
    raise ValueError(
        f'{dataset.type}, the training data set of the config, has no labels: set --data digits or a folder'
    )


def _datasets(where: str, encoder: FrozenEncoder, check: str) -> tuple[str, Any, Any]:
    """Return a name, and training and test set or their configs."""
    if where == 'digits':
        return "scikit-learn's digits", dict(type='Digits', split='train'), dict(type='Digits', split='test')
    root = Path(where)
    for folder, kind in (('cifar-10-batches-py', 'PreparedCIFAR10'), ('cifar-100-python', 'CIFAR100')):
        if (root / folder).is_dir():
            train, test = (dict(type=kind, data_root=where, split=split) for split in ('train', 'test'))
            return f'{kind.removeprefix("Prepared")} in {where}', train, test
    splits = [folder for folder in ('val', 'test', 'train') if (root / folder).is_dir()]
    if not any(root.glob('*/')) or len(splits) == 1 or splits == ['val', 'test']:
        raise FileNotFoundError(
            f"no labelled data in {where!r}: it must be 'digits', or a folder that has cifar-10-batches-py, "
            'cifar-100-python, train/CLASS/IMAGE and val/CLASS/IMAGE, or CLASS/IMAGE'
        )
    held_out = splits[0] if splits else 'val'
    pipeline = [lambda entry: {**entry, 'inputs': encoder.prepare(entry['img_path'])}]
    train, test = (LabelledImageFolder(where, split, pipeline=pipeline, check=check) for split in ('train', held_out))
    return f'{len(train.CLASSES)} classes in {where}', train, test


def load_images(source: dict | Dataset, name: str, size: int | None = None, seed: int = 0) -> LabelledImages:
    """Build a data set, choose a part of it by :func:`choose_stratified` and decode that once.

    ``source`` is the data set, or its config; for its pipeline see :class:`~randsac_mm.datasets.InMemoryDataset`.
    Errors call it ``name``.

    Returns:
        Images (n, C, H, W), uint8, and labels (n,), int64.

    Raises:
        ValueError: If an image cannot be used or has no label, or they need more than 4 GiB.
    """
    dataset: Any = DATASETS.build(source) if isinstance(source, dict) else source
    if hasattr(dataset, 'full_init'):
        dataset.full_init()
    if hasattr(dataset, 'test_mode'):
        dataset.test_mode = True  # in training mode mmengine replaces a broken file by another image, keeping no label
    try:
        labels = getattr(dataset, 'labels', None)
        if labels is None:  # without decoding an image
            labels = [dataset.get_data_info(idx).get('gt_label') for idx in range(len(dataset))]
            if None in labels:
                raise ValueError('images have no gt_label: use a labelled data set, such as CustomDataset')
        labels = np.asarray(labels, dtype=np.int64)
        chosen = choose_stratified(labels, size, seed)
        images = InMemoryDataset(Subset(dataset, chosen.tolist()), device='cpu').images
    except ValueError as error:
        raise ValueError(f'{name} ({type(dataset).__name__}): {error}') from error
    return LabelledImages(images, torch.from_numpy(labels[chosen]))


def choose_stratified(labels: np.ndarray, size: int | None, seed: int) -> np.ndarray:
    """Choose ``size`` images by labels (n,) such that each class keeps its share, the same ones for the same seed.

    Returns:
        Indices of the chosen ones, ascending; all if ``size`` is None, or if there are not more.

    Raises:
        ValueError: If ``size`` is below 1.

    Example:
        >>> labels = np.array([0] * 60 + [1] * 30 + [2] * 10)
        >>> np.bincount(labels[choose_stratified(labels, 10, seed=0)]).tolist()
        [6, 3, 1]
    """
    if size is not None and size < 1:
        raise ValueError(f'{size} images are too few: choose at least 1')
    if size is None or size >= len(labels):
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    classes, counts = np.unique(labels, return_counts=True)
    chosen, rest = np.divmod(counts * size, len(labels))  # the largest remainders get what rounding down leaves
    chosen[np.argsort(-rest, kind='stable')[: size - chosen.sum()]] += 1
    members = (order[labels[order] == label] for label in classes)
    return np.sort(np.concatenate([part[:count] for part, count in zip(members, chosen, strict=True)]))
