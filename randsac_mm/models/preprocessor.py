"""The data preprocessor of pre-training: it also draws the serialization."""

from collections.abc import Sequence

from torch import Tensor

from randsac_mm import segments
from randsac_mm.registry import TASK_UTILS, register

from .batch_preprocessor import BatchAugmentDataPreprocessor, BatchTransform

for _strategy in (
    segments.PatchPartition,
    segments.SquarePartition,
    segments.BlobPartition,
    segments.ShuffledPartition,
    segments.RasterSerialization,
    segments.RandomSerialization,
):
    register('TASK_UTILS')(_strategy)


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


@register('MODELS')
class RandSACDataPreprocessor(BatchAugmentDataPreprocessor):
    """Data preprocessor that stacks and normalises images and, in training, augments them and draws serializations.

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
            normalisation, for data that no pipeline augments, see :class:`BatchAugmentDataPreprocessor`.

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
        super().__init__(mean=mean, std=std, to_rgb=to_rgb, non_blocking=non_blocking, augment=augment)
        self.serialization = build_serialization(serialization)
        self.patch_size = patch_size

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
        batch = super().forward(data, training)
        if training:
            batch.update(self.draw(batch['inputs']))
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
