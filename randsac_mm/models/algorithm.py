"""The algorithm: serialize, encode, decode, compare (paper sections 3 and 4)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from torch import Tensor

from randsac_mm.registry import register
from randsac_mm.segments import Layout, dense_rank, raster_layout, sorted_layout

from .preprocessor import RandSACDataPreprocessor


class Reconstruction(NamedTuple):
    """Hold what a model predicts for whole images.

    Attributes:
        pred: Predicted patches (B, N, P * P * C) in raster order, in the space of the head's target (normalised per
            patch if ``norm_pix``); 0 for the first segment, which nothing can predict.
        rank: The serialization (B, N).
        predicted: Whether a token was predicted (B, N), bool: all but the first segment.
    """

    pred: Tensor
    rank: Tensor
    predicted: Tensor


@register('MODELS')
class RandSAC(BaseSelfSupervisor):
    """Learn features by predicting random segments of an image from all segments before them.

    Args:
        backbone: Config of the encoder, a :class:`RandSACViT`.
        neck: Config of the decoder, a :class:`RandSACDecoder`.
        head: Config of the :class:`RandSACHead`.
        data_preprocessor: Config of the :class:`RandSACDataPreprocessor`, which holds the serialization.
        init_cfg: Initialisation from a checkpoint, as in mmengine.

    Raises:
        ValueError: If sizes of the parts do not fit each other, or the serialization does not fit the token grid.

    Paper:
        "Self-supervision through Random Segments with Autoregressive Coding", arXiv 2203.12054.
    """

    # Compiled code of compute_loss, of this very object; see randsac_mm.engine.compile_model.
    compiled_loss: Callable[[Tensor, Tensor, int | None], Tensor] | None = None

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: dict,
        neck: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            backbone=backbone, neck=neck, head=head, data_preprocessor=data_preprocessor, init_cfg=init_cfg
        )
        self._check_parts()
        self.data_preprocessor.patch_size = self.backbone.patch_size
        # Fail before the first epoch, not in it.
        self.data_preprocessor.serialization.partition.check(self.backbone.patch_resolution)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list | None = None,
        mode: str = 'tensor',
        rank: Tensor | None = None,
        tokens_per_segment: int | None = None,
    ) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Run the model as mmengine asks for it.

        Args:
            inputs: Normalised images (B, C, H, W).
            data_samples: Not read; there are no labels.
            mode: ``'loss'``, or ``'tensor'`` for the backbone's features.
            rank: The serialization (B, N), see :meth:`loss`.
            tokens_per_segment: See :meth:`loss`.

        Returns:
            A dict of losses, or the backbone's features.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples, rank, tokens_per_segment)
        return super().forward(inputs, data_samples, mode)

    def loss(
        self,
        inputs: Tensor,
        data_samples: list | None = None,
        rank: Tensor | None = None,
        tokens_per_segment: int | None = None,
    ) -> dict[str, Tensor]:
        """Predict every segment from all earlier ones and compare.

        Args:
            inputs: Normalised images (B, C, H, W).
            data_samples: Not read; there are no labels.
            rank: The serialization (B, N), tokens in raster order, dense from 0. Drawn if not given.
            tokens_per_segment: Size of every segment of ``rank`` in tokens, if all are equal, for a faster layout.

        Returns:
            ``loss``, the mean squared error over all predicted patches, a scalar.

        Raises:
            ValueError: If ``rank`` has the wrong shape. Its values are not looked at, which would stop a GPU; see
                :meth:`reconstruct`.
        """
        if rank is None:
            rank, tokens_per_segment = self.data_preprocessor.draw(inputs).values()
        self._check_shape(inputs, rank)
        return {'loss': (self.compiled_loss or self.compute_loss)(inputs, rank, tokens_per_segment)}

    def compute_loss(self, inputs: Tensor, rank: Tensor, tokens_per_segment: int | None) -> Tensor:
        """Compute the loss from tensors alone: what :func:`randsac_mm.engine.compile_model` compiles.

        Args:
            inputs: Normalised images (B, C, H, W).
            rank: The serialization (B, N).
            tokens_per_segment: See :meth:`loss`.

        Returns:
            The loss, a scalar.
        """
        layout = sorted_layout(rank, tokens_per_segment)
        pred = self.predict(inputs, layout)
        return self.head.loss(pred, inputs, layout.target, layout.predicted)

    def predict(self, inputs: Tensor, layout: Layout) -> Tensor:
        """Predict the target tokens of a layout.

        Args:
            inputs: Normalised images (B, C, H, W).
            layout: Which tokens to encode and to predict, and the masks.

        Returns:
            Predicted patches (B, T, P * P * C), in the order of ``layout.target``.
        """
        hidden = self.backbone.encode(inputs, layout)
        return self.head(self.neck(hidden, layout, self.backbone.grid(*inputs.shape[2:])))

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor, rank: Tensor | None = None) -> Reconstruction:
        """Predict whole images, every segment from the true pixels of all earlier ones.

        Args:
            inputs: Normalised images (B, C, H, W).
            rank: The serialization (B, N), tokens in raster order, dense from 0. Drawn if not given.

        Returns:
            Predictions in raster order, the serialization, and which tokens were predicted.

        Raises:
            ValueError: If ``rank`` has the wrong shape, gaps, or fewer than two segments.
        """
        rank = self.data_preprocessor.draw(inputs)['rank'] if rank is None else self._check_rank(inputs, rank)
        layout = raster_layout(rank)
        pred = self.predict(inputs, layout)
        return Reconstruction(pred * layout.predicted[..., None], rank, layout.predicted)

    def __getstate__(self) -> dict:
        """Leave compiled code out of copies, as of an exponential average: it belongs to this model's parameters."""
        state = super().__getstate__()
        state.pop('compiled_loss', None)
        return state

    def _check_shape(self, inputs: Tensor, rank: Tensor) -> None:
        expected = (len(inputs), math.prod(self.backbone.grid(*inputs.shape[2:])))
        if tuple(rank.shape) != expected:
            raise ValueError(f'rank has shape {tuple(rank.shape)}, but these images need (B, N) = {expected}')

    def _check_rank(self, inputs: Tensor, rank: Tensor) -> Tensor:
        self._check_shape(inputs, rank)
        if not torch.equal(rank, dense_rank(rank)) or not (rank.amax(dim=1) > 0).all():
            raise ValueError(
                'rank must count the segments of every image from 0 without gaps and have at least two of them; '
                'randsac_mm.segments.dense_rank closes gaps'
            )
        return rank

    def _check_parts(self) -> None:
        """Compare the sizes that a config states more than once."""
        backbone, neck, head = self.backbone, self.neck, self.head
        if not isinstance(self.data_preprocessor, RandSACDataPreprocessor):
            raise ValueError(
                f'{type(self).__name__} draws serializations in its data preprocessor, but that is a '
                f'{type(self.data_preprocessor).__name__}: set data_preprocessor=dict(type="RandSACDataPreprocessor", '
                'serialization=...)'
            )
        given = self.data_preprocessor.patch_size
        pairs = [
            ('data_preprocessor.patch_size', given or backbone.patch_size, 'backbone.patch_size', backbone.patch_size),
            ('head.patch_size', head.patch_size, 'backbone.patch_size', backbone.patch_size),
            ('head.in_channels', head.in_channels, 'backbone.in_channels', backbone.in_channels),
            *self._decoder_pairs(neck, head, backbone),
        ]
        for name, value, other, expected in pairs:
            if value != expected:
                raise ValueError(f'{name}={value} does not fit {other}={expected}: set them equal')

    def _decoder_pairs(self, neck: object, head: object, backbone: object) -> list[tuple[str, int, str, int]]:
        if neck is None:
            raise ValueError('RandSAC needs a neck: RandSACDecoder. (The baseline without one is TwoStreamRandSAC)')
        return [
            ('neck.encoder_dims', neck.encoder_dims, 'backbone.embed_dims', backbone.embed_dims),
            ('neck.encoder_layers', neck.encoder_layers, 'backbone.num_layers', backbone.num_layers),
            ('head.embed_dims', head.embed_dims, 'neck.embed_dims', neck.embed_dims),
        ]
