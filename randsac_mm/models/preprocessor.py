"""Data preprocessors that augment whole batches on their device; that of pre-training also draws the serialization."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmpretrain.models.utils.data_preprocessor import SelfSupDataPreprocessor
from torch import Tensor

from randsac_mm import segments
from randsac_mm.registry import TASK_UTILS, register
from randsac_mm.segments.draws import SampleGenerator

BatchTransform = Callable[[Tensor, torch.Generator], Tensor]

for _strategy in (
    segments.PatchPartition,
    segments.SquarePartition,
    segments.BlobPartition,
    segments.ShuffledPartition,
    segments.RasterSerialization,
    segments.RandomSerialization,
):
    register('TASK_UTILS')(_strategy)


def _build(part: Any) -> Any:
    """Build a config and all configs inside it; return anything else as it is."""
    if not isinstance(part, dict):
        return part
    built = {key: _build(value) for key, value in part.items()}
    # Plain names are ours even while another library's default scope, such as mmseg's, is active.
    return TASK_UTILS.build({'_scope_': 'randsac_mm', **built}) if 'type' in built else built


def build_serialization(cfg: dict | segments.Serialization) -> segments.Serialization:
    """Build a serialization, and the partitions inside it, from config.

    Args:
        cfg: As ``dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=(16, 4)))``, or a
            serialization that is already built.

    Raises:
        ValueError: If ``cfg`` describes anything else, such as a partition.
    """
    serialization = _build(cfg)
    if not isinstance(serialization, segments.Serialization):
        raise ValueError(
            f'serialization={cfg!r} must be a config of a serialization, as dict(type="RandomSerialization", '
            'partition=dict(type=...))'
        )
    return serialization


@register('MODELS')
class BatchAugmentDataPreprocessor(SelfSupDataPreprocessor):
    """Data preprocessor that stacks and normalises images and, in training, augments the batch on its device.

    For algorithms without a data preprocessor of their own, on data that no pipeline augments, such as
    :class:`~randsac_mm.datasets.InMemoryDataset`: mmpretrain's MAE and classifiers get the same crops as RandSAC.

    ``sample_seeds`` (B,), int64, of a batch (:class:`~randsac_mm.engine.SampleSeedHook`) decide the draws of an image.
    Without them seeds come from torch's global generator on the CPU, one number a step, so that a run repeats and, with
    that generator's state in the checkpoint, resumes exactly. Processes that share a seed still draw differently.

    Args:
        mean: Mean of each channel, in pixel values 0 .. 255.
        std: Standard deviation of each channel, same units.
        to_rgb: Whether to swap the first and third channel.
        non_blocking: Whether to copy to the device asynchronously, from pinned memory.
        augment: Transforms of a batch, or their configs, as ``[dict(type='BatchRandomResizedCrop', scale=32)]``,
            applied in training before the normalisation: callables that map images (B, C, H, W) and a generator on
            their device to images.
        batch_augments: Must be None: what a classifier of mmpretrain passes on from its ``train_cfg``.

    Raises:
        ValueError: If ``augment`` is no list of transforms, or ``batch_augments`` is set.
    """

    def __init__(
        self,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        to_rgb: bool = False,
        non_blocking: bool = True,
        augment: Sequence[dict | BatchTransform] | None = None,
        batch_augments: None = None,
    ) -> None:
        super().__init__(mean=mean, std=std, to_rgb=to_rgb, non_blocking=non_blocking)
        if batch_augments is not None:
            raise ValueError(
                f'batch_augments={batch_augments!r} mixes labels, which this data preprocessor does not: use '
                "data_preprocessor=dict(type='ClsDataPreprocessor') with a pipeline that crops"
            )
        if isinstance(augment, dict) or callable(augment):
            raise ValueError(f'augment={augment!r} must be a list of transforms: put it in brackets')
        self.augment: list[BatchTransform] = [_build(cfg) for cfg in augment or ()]
        for transform in self.augment:
            if not callable(transform) or isinstance(transform, type):
                raise ValueError(f'augment has {transform!r}, which is no transform of a batch')

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs``, images (B, C, H, W) or a list of (C, H, W), and optionally ``data_samples``.
            training: Whether to augment.

        Returns:
            ``inputs`` (B, C, H, W), normalised, float32, and ``data_samples``.

        Raises:
            ValueError: If the images of a batch differ in size, or ``to_rgb`` is set for other than three channels.
        """
        data = self.cast_data(data)
        images = data['inputs']
        if not isinstance(images, Tensor):
            sizes = {tuple(image.shape) for image in images}
            if len(sizes) > 1:
                raise ValueError(
                    f'images of one batch have different shapes {sorted(sizes)}: end the pipeline with a crop to one '
                    'size, such as RandomResizedCrop'
                )
            images = torch.stack(list(images))
        if self._channel_conversion:
            if images.shape[1] != 3:
                raise ValueError(f'to_rgb=True needs 3 channels, but these images have {images.shape[1]}: set it False')
            images = images.flip(1)  # an index from a list would wait for the device
        if training and self.augment:
            generator = self._generator(images.device, data.get('sample_seeds'))
            for transform in self.augment:
                images = transform(images, generator)
        images = images.float()
        if self._enable_normalize:
            images = (images - self.mean).div_(self.std)  # in place: one pass over memory less
        return {'inputs': images, 'data_samples': data.get('data_samples')}

    @staticmethod
    def _generator(device: torch.device, seeds: Tensor | None = None) -> torch.Generator:
        """Return this step's generator on a device, without waiting for that device."""
        process = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = int(torch.randint(2**62, ())) + process
        generator = torch.Generator(device) if seeds is None else SampleGenerator(seeds)
        return generator.manual_seed(seed)


@register('MODELS')
class RandSACDataPreprocessor(BatchAugmentDataPreprocessor):
    """Data preprocessor of pre-training: in training it also draws a serialization for each image.

    Args:
        serialization: The serialization or its config, see :func:`build_serialization`.
        patch_size: Side P of a patch, in pixels. :class:`RandSAC` fills it in from its backbone.
        **kwargs: ``mean``, ``std``, ``to_rgb``, ``non_blocking`` and ``augment`` of
            :class:`BatchAugmentDataPreprocessor`.

    Raises:
        ValueError: If ``serialization`` or ``augment`` describes anything else.
    """

    def __init__(
        self, serialization: dict | segments.Serialization, patch_size: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.serialization = build_serialization(serialization)
        self.patch_size = patch_size

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch as the base class; in training add ``rank`` and ``tokens_per_segment``, see :meth:`draw`."""
        seeds = self.cast_data(data.get('sample_seeds'))  # copied to the device once
        batch = super().forward({**data, 'sample_seeds': seeds}, training)
        if training:
            batch.update(self.draw(batch['inputs'], seeds))
        return batch

    def draw(self, images: Tensor, seeds: Tensor | None = None) -> dict:
        """Draw the serialization of images (B, C, H, W): ``rank`` (B, N), int64, and ``tokens_per_segment`` or None.

        Raises:
            ValueError: If ``patch_size`` is not set or does not divide the images, or the partition does not fit.
        """
        if self.patch_size is None:
            raise ValueError('patch_size is not set: give it to RandSACDataPreprocessor, or use it inside RandSAC')
        height, width = images.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f'images of {height} x {width} pixels cannot be cut in patches of patch_size={self.patch_size}'
            )
        grid = (height // self.patch_size, width // self.patch_size)
        generator = self._generator(images.device, None if seeds is None else ~seeds)  # not the draws of the crops
        return {
            'rank': self.serialization(len(images), grid, generator, images.device),
            'tokens_per_segment': self.serialization.tokens_per_segment(grid),
        }
