"""Stacking, augmenting and normalising whole batches on their device, for any algorithm."""

from collections.abc import Callable, Sequence

import torch
from mmpretrain.models.utils.data_preprocessor import SelfSupDataPreprocessor
from torch import Tensor

from randsac_mm.registry import TASK_UTILS, register

BatchTransform = Callable[[Tensor, torch.Generator], Tensor]


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
class BatchAugmentDataPreprocessor(SelfSupDataPreprocessor):
    """Stack, convert and normalise images and, in training, augment them.

    For algorithms that bring no data preprocessor of their own for data that no pipeline augments, such as
    :class:`~randsac_mm.datasets.InMemoryDataset`: mmpretrain's MAE and classifiers get the same crops as RandSAC.

    Seeds come from torch's global generator on the CPU, one number a step, so that a run repeats and, with that
    generator's state in the checkpoint, resumes exactly. Processes that share a seed still draw differently.

    Args:
        mean: Mean of each channel, in pixel values 0 .. 255.
        std: Standard deviation of each channel, same units.
        to_rgb: Whether to swap the first and third channel.
        non_blocking: Whether to copy to the device without waiting; from pinned memory, this is what makes it so.
        augment: Transforms of the whole batch on its device, or their configs, applied in training before the
            normalisation, see :func:`build_augment`.
        batch_augments: Must be None: what a classifier of mmpretrain passes on from its ``train_cfg``.

    Raises:
        ValueError: If ``augment`` describes anything else, or ``batch_augments`` asks for mixup or the like.
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
        self.augment = build_augment(augment)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data: ``inputs``, images (B, C, H, W) or a list of (C, H, W), and optionally ``data_samples``.
            training: Whether to augment.

        Returns:
            ``inputs`` (B, C, H, W), normalised, float32, and ``data_samples``.

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
        return {'inputs': images, 'data_samples': data.get('data_samples')}

    @staticmethod
    def _generator(device: torch.device) -> torch.Generator:
        """Make this step's generator on the device of the batch, without waiting for that device."""
        process = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        seed = int(torch.randint(2**62, ())) + process
        return torch.Generator(device).manual_seed(seed)
