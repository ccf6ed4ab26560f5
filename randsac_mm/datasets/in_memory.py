"""A small data set that lives on the training device: no worker processes, no copies, one look-up for a batch."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.registry import FUNCTIONS
from mmpretrain.registry import DATASETS
from mmpretrain.structures import DataSample
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from randsac_mm.registry import register

_LOADER = "num_workers=0, persistent_workers=False, collate_fn=dict(type='collate_whole_batch')"


class WholeBatch(dict):
    """A batch of :class:`InMemoryDataset`; data loaders that treat it as a list of samples get an error."""

    def __missing__(self, key: object) -> Any:
        if isinstance(key, int):
            raise ValueError(f'batches of InMemoryDataset are collated already: set train_dataloader=dict({_LOADER})')
        raise KeyError(key)

    def pin_memory(self) -> 'WholeBatch':
        """Pin images in main memory; raise ValueError if they are on a device."""
        device = self['inputs'].device
        if device.type != 'cpu':
            raise ValueError(f'images of InMemoryDataset are on {device}: set train_dataloader=dict(pin_memory=False)')
        return WholeBatch({**self, 'inputs': self['inputs'].pin_memory()})


@FUNCTIONS.register_module()
def collate_whole_batch(batch: WholeBatch) -> dict:
    """Return a batch of :class:`InMemoryDataset` as it is; raise ValueError for samples of another data set."""
    if not isinstance(batch, WholeBatch):
        raise ValueError(
            "samples come one by one, not from InMemoryDataset: set collate_fn=dict(type='default_collate')"
        )
    return batch


@register('DATASETS')
class InMemoryDataset(Dataset):
    """All images of another data set as one uint8 tensor on the device, in whole batches.

    The data preprocessor augments on the same device (``augment=[...]``). The data loader needs ``num_workers=0,
    persistent_workers=False, pin_memory=False, collate_fn=dict(type='collate_whole_batch')``. Each process has a copy
    of all images.

    Args:
        dataset: The data set, or its config. Each item is read once, so its pipeline must not be random. Items have
            either ``inputs``, a tensor (C, H, W), or ``img``, an array (H, W, C) or (H, W); all uint8 and of one shape.
        device: Where the images are: ``'auto'`` (this process's CUDA device, else main memory) or a torch device.
        with_label: Whether batches have ``data_samples`` with ``gt_label``.
        max_bytes: Largest memory that the images may take.

    Attributes:
        images (Tensor): All images (n, C, H, W), uint8, on the device.
        labels (Tensor | None): Their labels (n,), int64, in main memory, if the items have one.
        metainfo (dict): That of the data set.

    Raises:
        ValueError: If an item is no such image or has no label, or the images need more than ``max_bytes``.

    Example:
        >>> data = InMemoryDataset(dict(type='Digits', split='test'), device='cpu')
        >>> data.images.shape, data.__getitems__([5, 0])['inputs'].shape
        (torch.Size([360, 1, 8, 8]), torch.Size([2, 1, 8, 8]))
    """

    def __init__(
        self,
        dataset: dict | Dataset,
        device: str | torch.device = 'auto',
        with_label: bool = False,
        max_bytes: int = 2**32,
    ) -> None:
        source = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if device == 'auto':
            device = torch.device('cuda', torch.cuda.current_device()) if torch.cuda.is_available() else 'cpu'
        self.metainfo = getattr(source, 'metainfo', {})
        images, labels = _read(source, max_bytes)
        self.images = images.to(device)
        self.labels = None if None in labels else torch.tensor(labels)
        self._samples = None
        if with_label:
            if self.labels is None:
                raise ValueError(f'an item of {type(source).__name__} has no gt_label: set with_label=False')
            self._samples = [DataSample().set_gt_label(label) for label in labels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: int) -> dict:
        """Return ``inputs`` (C, H, W), uint8, on the device, and ``data_samples`` if asked for."""
        item = {'inputs': self.images[idx]}
        return item if self._samples is None else {**item, 'data_samples': self._samples[idx]}

    def __getitems__(self, indices: Sequence[int]) -> WholeBatch:
        """Return a batch, ``inputs`` (B, C, H, W) and perhaps ``data_samples``; ValueError in a worker process."""
        if get_worker_info() is not None:
            raise ValueError(f'InMemoryDataset needs no worker processes: set train_dataloader=dict({_LOADER})')
        # Pinned and asynchronous: the host does not wait until the device has caught up.
        index = torch.tensor(indices, pin_memory=self.images.is_cuda).to(self.images.device, non_blocking=True)
        batch = WholeBatch(inputs=self.images.index_select(0, index))
        if self._samples is not None:
            batch['data_samples'] = [self._samples[idx] for idx in indices]
        return batch


def _read(source: Dataset, max_bytes: int) -> tuple[Tensor, list[int | None]]:
    """Read all images (n, C, H, W), uint8, in main memory, and labels."""
    name, count = type(source).__name__, len(source)
    if not count:
        raise ValueError(f'{name} has no images')
    images, labels = None, []
    for idx in range(count):
        image, label = _unpack(source[idx], f'item {idx} of {name}')
        if images is None:
            if count * image.numel() > max_bytes:
                raise ValueError(
                    f'{count} images of shape {tuple(image.shape)} need {count * image.numel()} bytes, more than '
                    f'max_bytes={max_bytes}: raise it, or use the data set without InMemoryDataset'
                )
            images = image.new_empty((count, *image.shape))
        elif image.shape != images.shape[1:]:
            raise ValueError(
                f'item {idx} of {name} has shape {tuple(image.shape)} and item 0 {tuple(images.shape[1:])}: end its '
                'pipeline with a resize and a central crop to one size'
            )
        images[idx] = image
        labels.append(label)
    return images, labels


def _unpack(item: dict, name: str) -> tuple[Tensor, int | None]:
    """Return image (C, H, W) and label of an item."""
    if 'inputs' in item:
        image = item['inputs']
    elif 'img' in item:
        image = torch.from_numpy(np.array(np.atleast_3d(item['img']))).permute(2, 0, 1)  # writable
    else:
        raise ValueError(f"{name} has neither 'inputs' nor 'img': its data set needs a pipeline that loads images")
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise ValueError(f'{name} is {image.dtype} of shape {tuple(image.shape)}: images must be uint8 and (C, H, W)')
    label = item.get('gt_label', getattr(item.get('data_samples'), 'gt_label', None))
    return image, None if label is None else int(label)
