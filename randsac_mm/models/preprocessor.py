"""The data preprocessor: stacks, augments and normalises images and draws their serialization."""

from collections.abc import Callable, Sequence

import torch
from mmpretrain.models.utils.data_preprocessor import SelfSupDataPreprocessor
from torch import Tensor

from randsac_mm import augment as transforms
from randsac_mm import segments
from randsac_mm.registry import TASK_UTILS, register

for _strategy in (
    segments.PatchPartition,
    segments.SquarePartition,
    segments.BlobPartition,
    segments.ShuffledPartition,
    segments.RasterSerialization,
    segments.RandomSerialization,
    transforms.BatchRandomResizedCrop,
    transforms.BatchRandomFlip,
):
    register('TASK_UTILS')(_strategy)

BatchTransform = Callable[[Tensor, torch.Generator], Tensor]


def build_serialization(cfg: dict | segments.Serialization) -> segments.Serialization:
    """Build a serialization, and the partitions inside it, from config.

    Args:
        cfg: As ``dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=(16, 4)))``, or a
            serialization that is already built.

    Returns:
        The serialization.

    Raises:
        ValueError: If ``cfg`` describes anything else, such as a partition.
    """

    def build(part: object) -> object:
        if not isinstance(part, dict):
            return part
        built = {key: build(value) for key, value in part.items()}
        # Plain names are ours even while another library's default scope, such as mmseg's, is active.
        return TASK_UTILS.build({'_scope_': 'randsac_mm', **built}) if 'type' in built else built

    serialization = build(cfg)
    if not isinstance(serialization, segments.Serialization):
        raise ValueError(
            f'serialization={cfg!r} is no serialization: use dict(type="RandomSerialization", '
            'partition=dict(type=...)), or RasterSerialization'
        )
    return serialization


def build_augment(cfgs: Sequence[dict | BatchTransform] | None) -> list[BatchTransform]:
    """Build transforms of a batch from config.

    Args:
        cfgs: As ``[dict(type='BatchRandomResizedCrop', scale=32, flip_prob=0.5)]``, or with transforms that are already
            built: callables that map images (B, C, H, W) and a generator on their device to images. None: no transform.

    Returns:
        The transforms.

    Raises:
        ValueError: If ``cfgs`` is no list, or an entry is neither a config nor callable.
    """
    if isinstance(cfgs, dict) or callable(cfgs):
        raise ValueError(f'augment={cfgs!r} must be a list of transforms: put it in brackets')
    built = [TASK_UTILS.build({'_scope_': 'randsac_mm', **cfg}) if isinstance(cfg, dict) else cfg for cfg in cfgs or ()]
    for transform in built:
        if not callable(transform) or isinstance(transform, type):
            raise ValueError(
                f'augment has an entry {transform!r} that is no transform of a batch: use '
                'dict(type="BatchRandomResizedCrop", ...) or dict(type="BatchRandomFlip", ...)'
            )
    return built


@register('MODELS')
class RandSACDataPreprocessor(SelfSupDataPreprocessor):
    """Stack, convert and normalise images and, in training, augment them and draw a serialization for each.

    Seeds come from torch's global generator on the CPU, one number a step for the serialization and one for the
    augmentation if there is any, so that a run repeats and, with that generator's state in the checkpoint, resumes
    exactly. Processes that share a seed still draw differently.

    Args:
        serialization: The serialization or its config, see :func:`build_serialization`.
        patch_size: Side P of a patch, in pixels. :class:`RandSAC` fills it in from its backbone.
        mean: Mean of each channel, in pixel values 0 .. 255.
        std: Standard deviation of each channel, same units.
        to_rgb: Whether to swap the first and third channel.
        non_blocking: Whether to copy to the device without waiting; from pinned memory, this is what makes it so.
        augment: Transforms of the whole batch on its device, or their configs, applied in training before the
            normalisation, see :func:`build_augment`. For data that no pipeline augments, such as
            :class:`~randsac_mm.datasets.InMemoryDataset`.

    Raises:
        ValueError: If ``serialization`` or ``augment`` describes anything else.
    """

    def __init__(
        self,
        serialization: dict | segments.Serialization,
        patch_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        to_rgb: bool = False,
        non_blocking: bool = True,
        augment: Sequence[dict | BatchTransform] | None = None,
    ) -> None:
        super().__init__(mean=mean, std=std, to_rgb=to_rgb, non_blocking=non_blocking)
        self.serialization = build_serialization(serialization)
        self.patch_size = patch_size
        self.augment = build_augment(augment)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs``, images (B, C, H, W) or a list of (C, H, W), and optionally ``data_samples``.
            training: Whether to augment and to draw a serialization.

        Returns:
            ``inputs`` (B, C, H, W), normalised, float32; ``data_samples``; and in training ``rank`` (B, N) and
            ``tokens_per_segment``, see :func:`randsac_mm.segments.sorted_layout`.

        Raises:
            ValueError: If the images of a batch differ in size, or ``to_rgb`` finds other than three channels.
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
                raise ValueError(
                    f'to_rgb=True swaps the first and third of 3 channels, but these images have {images.shape[1]} '
                    'channel(s): set to_rgb=False'
                )
            images = images.flip(1)  # an index from a list would wait for the device
        if training and self.augment:
            generator = self._generator(images.device)
            for transform in self.augment:
                images = transform(images, generator)
        images = images.float()
        if self._enable_normalize:
            images = (images - self.mean).div_(self.std)  # in place: one pass over memory less
        batch = {'inputs': images, 'data_samples': data.get('data_samples')}
        if training:
            batch.update(self.draw(images))
        return batch

    def draw(self, images: Tensor) -> dict:
        """Draw the serialization of a batch of images.

        Args:
            images: Images (B, C, H, W).

        Returns:
            ``rank`` (B, N), int64, and ``tokens_per_segment``, an int or None.

        Raises:
            ValueError: If ``patch_size`` is not set or does not divide the images, or the partition does not fit.
        """
        if self.patch_size is None:
            raise ValueError('patch_size is not set: give it to RandSACDataPreprocessor, or use it inside RandSAC')
        height, width = images.shape[2:]
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f'images of {height} x {width} pixels cannot be cut in patches of patch_size={self.patch_size}: resize '
                f'or crop them to multiples of {self.patch_size}'
            )
        grid = (height // self.patch_size, width // self.patch_size)
        return {
            'rank': self.serialization(len(images), grid, self._generator(images.device), images.device),
            'tokens_per_segment': self.serialization.tokens_per_segment(grid),
        }

    @staticmethod
    def _generator(device: torch.device) -> torch.Generator:
        """Make this step's generator on the device of the batch, without waiting for that device."""
        process = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = int(torch.randint(2**62, ())) + process
        return torch.Generator(device).manual_seed(seed)
