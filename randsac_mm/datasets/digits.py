"""Handwritten digits that ship with scikit-learn: real images without a download."""

from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dataset import Compose
from mmpretrain.registry import TRANSFORMS
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from randsac_mm.registry import register

_TEST_IMAGES = 360


@register('DATASETS')
class Digits(Dataset):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 pixels and one channel each.

    A pixel of the source is one of 0 .. 16; here it is round(255 / 16 * value), uint8. The split is random but fixed:
    1,437 images for training and 360 for testing. Both have digits of the same writers. A whole batch is one indexing
    operation, and the data samples are made once and shared between epochs.

    Args:
        split: ``'train'`` or ``'test'``.
        pipeline: Transforms, or their configs, for ``dict(img=(8, 8, 1), gt_label=, sample_idx=, img_shape=,
            ori_shape=)``. Empty packs directly, without augmentation.
        with_label: Whether items have ``data_samples``, if the pipeline is empty. Pre-training is quicker without.

    Attributes:
        images (Tensor): All images of the split, (n, 1, 8, 8), uint8.
        labels (Tensor): Their digits, (n,), int64.
        metainfo (dict): ``classes``.

    Raises:
        ValueError: If ``split`` is neither of the two.

    Example:
        >>> digits = Digits('test')
        >>> len(digits), tuple(digits[0]['inputs'].shape), digits[0]['data_samples'].gt_label
        (360, (1, 8, 8), tensor([4]))
    """

    METAINFO = metainfo = {'classes': tuple('0123456789')}  # noqa: RUF012

    def __init__(self, split: str = 'train', pipeline: Sequence = (), with_label: bool = True) -> None:
        if split not in ('train', 'test'):
            raise ValueError(f"split={split!r} must be 'train' or 'test'")
        from sklearn.datasets import load_digits  # half a second that others do without

        self.pipeline = Compose([TRANSFORMS.build(step) if isinstance(step, dict) else step for step in pipeline])
        data = load_digits()
        order = np.random.RandomState(0).permutation(len(data.target))
        chosen = np.sort(order[:_TEST_IMAGES] if split == 'test' else order[_TEST_IMAGES:])
        images = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)
        self.images = torch.from_numpy(images)[:, None]
        self.labels = torch.from_numpy(data.target[chosen].astype(np.int64))
        self._samples = [DataSample().set_gt_label(int(label)) for label in self.labels] if with_label else None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: int) -> dict:
        """Return ``inputs`` (1, 8, 8) uint8 and ``data_samples``, or what the pipeline makes of the image."""
        return self.__getitems__([idx])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict]:
        """Return several items at once; torch's data loader calls this for a batch."""
        if self.pipeline.transforms:
            return [self._transformed(idx) for idx in indices]
        images = self.images[torch.as_tensor(indices)].unbind()
        if self._samples is None:
            return [{'inputs': image} for image in images]
        samples = [self._samples[idx] for idx in indices]
        return [{'inputs': image, 'data_samples': own} for image, own in zip(images, samples, strict=True)]

    def _transformed(self, idx: int) -> dict:
        size = tuple(self.images.shape[-2:])
        image = self.images[idx].permute(1, 2, 0).numpy().copy()  # transforms may write into it
        item = self.pipeline(
            {'img': image, 'gt_label': int(self.labels[idx]), 'sample_idx': idx, 'img_shape': size, 'ori_shape': size}
        )
        if item is None:
            raise ValueError(f'the pipeline returned None for digit {idx}')
        return item
