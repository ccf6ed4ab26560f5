"""The algorithm: serialize, encode, decode, compute the loss (paper sections 3 and 4)."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from randsac_mm.kernels import autocast_dtype, check_backend, choose_backend
from randsac_mm.registry import register
from randsac_mm.segments import Layout, dense_rank, raster_layout, sorted_layout, split_by_length

from .backbone import RandSACViT
from .head import RandSACHead
from .layers import run_layer
from .preprocessor import RandSACDataPreprocessor


class Reconstruction(NamedTuple):
    """Predictions for whole images.

    Attributes:
        pred: Predicted patches (B, N, P * P * C) in raster order, in the space of the head's target (normalised per
            patch if ``norm_pix``); 0 for the first segment, which is not predicted.
        rank: The serialization (B, N).
        predicted: Whether a token was predicted (B, N), bool: all but the first segment.
    """

    pred: Tensor
    rank: Tensor
    predicted: Tensor


@register('MODELS')
class RandSAC(BaseSelfSupervisor):
    """Self-supervised pre-training by predicting random segments of an image from all segments before them.

    Args:
        backbone: The encoder, a :class:`RandSACViT` or its config.
        head: The :class:`RandSACHead` or its config, whose sizes follow from the backbone and neck.
        data_preprocessor: The :class:`RandSACDataPreprocessor`, which draws the serialization, or its config.
        neck: The decoder, a :class:`RandSACDecoder`, or its config, in which sizes of the encoder may be left out.
        attention: Attention back-end in pre-training: ``'auto'``, ``'sdpa'``, ``'plain'`` or ``'triton'``, see
            :func:`randsac_mm.kernels.choose_backend`.
        init_cfg: Initialisation from a checkpoint, as in mmengine.

    Raises:
        ValueError: If sizes of the parts do not fit each other, the serialization does not fit the token grid, or the
            attention back-end does not work on this machine.

    Paper:
        "Self-supervision through Random Segments with Autoregressive Coding", arXiv 2203.12054.
    """

    backbone: RandSACViT
    head: RandSACHead
    data_preprocessor: RandSACDataPreprocessor
    # randsac_mm.engine.compile_model puts compiled code in the place of one of them, for the training step.
    compiled_loss: Callable[..., Tensor] | None = None  # compute_loss of this very object
    run_layer: Callable[..., Tensor] = staticmethod(run_layer)

    def __init__(
        self,
        backbone: dict,
        head: dict,
        data_preprocessor: dict,
        neck: dict | None = None,
        attention: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_backend(attention)
        encoder = _build_part(backbone)
        decoder = self._build_decoder(neck, encoder)
        dims = (encoder if decoder is None else decoder).embed_dims
        sizes = dict(embed_dims=dims, patch_size=encoder.patch_size, in_channels=encoder.in_channels)
        built = dict(backbone=encoder, neck=decoder, head=_build_part(head, **sizes))
        super().__init__(**built, data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.attention = attention
        if not isinstance(self.data_preprocessor, RandSACDataPreprocessor):
            raise ValueError(
                f'data_preprocessor={type(self.data_preprocessor).__name__} draws no serialization: set '
                'data_preprocessor=dict(type="RandSACDataPreprocessor", serialization=...)'
            )
        given = self.data_preprocessor.patch_size
        if given not in (None, encoder.patch_size):
            raise ValueError(f'data_preprocessor.patch_size={given} must be {encoder.patch_size}: leave it out')
        self.data_preprocessor.patch_size = encoder.patch_size
        self.data_preprocessor.serialization.partition.check(encoder.patch_resolution)  # fails before the first epoch

    @staticmethod
    def _build_decoder(neck: dict | None, encoder: Any) -> Any:
        if neck is None:
            raise ValueError('RandSAC needs neck=dict(type="RandSACDecoder", ...); TwoStreamRandSAC has no decoder')
        return _build_part(neck, encoder_dims=encoder.embed_dims, encoder_layers=encoder.num_layers)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list | None = None,
        mode: str = 'tensor',
        rank: Tensor | None = None,
        tokens_per_segment: int | None = None,
    ) -> dict[str, Tensor] | tuple[Tensor, ...]:
        """Return losses (mode ``'loss'``, see :meth:`loss`) or the backbone's features (``'tensor'``)."""
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
        """Compute the loss of predicting every segment from all earlier ones.

        If segments vary in size, images are sorted into groups, each cut to the tokens that it needs, for which the
        host waits for a GPU once a step; see :func:`randsac_mm.segments.split_by_length`.

        Args:
            inputs: Normalised images (B, C, H, W).
            data_samples: Ignored; there are no labels.
            rank: The serialization (B, N), tokens in raster order, dense from 0. Drawn if not given.
            tokens_per_segment: Size of every segment of ``rank`` in tokens, if all are equal, for a faster layout.

        Returns:
            ``loss``, the mean squared error over all predicted patches, a scalar; in training by several processes
            their mean is that over the patches of all.

        Raises:
            ValueError: If ``rank`` has the wrong shape. Its values are not checked, because a GPU would have to wait.
        """
        if rank is None:
            rank, tokens_per_segment = self.data_preprocessor.draw(inputs).values()
        self._check_shape(inputs, rank)
        compute = self.compiled_loss or self.compute_loss
        groups = 0 if tokens_per_segment else self._count_groups(rank)
        if groups == 0:
            loss = compute(inputs, rank, tokens_per_segment)
            return {'loss': loss if tokens_per_segment else self._weigh(loss, rank)}
        losses = [
            share * compute(inputs[images], rank[images], None, lengths)
            for images, lengths, share in split_by_length(rank, groups)
        ]
        return {'loss': self._weigh(torch.stack(losses).sum(), rank)}

    def compute_loss(
        self, inputs: Tensor, rank: Tensor, tokens_per_segment: int | None, lengths: tuple[int, int] | None = None
    ) -> Tensor:
        """Compute the loss as :meth:`loss`; :func:`randsac_mm.engine.compile_model` compiles it, or its layers."""
        layout = sorted_layout(rank, tokens_per_segment, lengths)
        pred = self.predict(inputs, layout, self.run_layer)
        return self.head.loss(pred, inputs, layout.target, layout.predicted)

    def predict(self, inputs: Tensor, layout: Layout, run: Callable[..., Tensor] = run_layer) -> Tensor:
        """Predict the target tokens of a layout: patches (B, T, P * P * C) from images (B, C, H, W)."""
        layout = self._prepare(layout, run is not run_layer)
        hidden = self.backbone.encode(inputs, layout, run)
        grid = self.backbone.grid(*inputs.shape[2:])
        return self.head(self.neck(hidden, layout, grid, self.backbone.trained_grid, run))

    @torch.no_grad()
    def reconstruct(self, inputs: Tensor, rank: Tensor | None = None) -> Reconstruction:
        """Predict whole images, every segment from the true pixels of all earlier ones.

        Args:
            inputs: Normalised images (B, C, H, W).
            rank: The serialization (B, N), tokens in raster order, dense from 0. Drawn if not given.

        Raises:
            ValueError: If ``rank`` has the wrong shape, gaps, or fewer than two segments.
        """
        if rank is None:
            rank = self.data_preprocessor.draw(inputs)['rank']
        self._check_shape(inputs, rank)
        if not torch.equal(rank, dense_rank(rank)) or not (rank.amax(dim=1) > 0).all():
            raise ValueError('rank must count at least two segments of every image from 0 without gaps')
        layout = raster_layout(rank)
        pred = self.predict(inputs, layout)
        return Reconstruction(pred * layout.predicted[..., None], rank, layout.predicted)

    def __getstate__(self) -> dict:
        """Return the state without compiled code, which belongs to this model's parameters and not to copies."""
        state = super().__getstate__()
        for name in ('compiled_loss', 'run_layer'):
            state.pop(name, None)
        return state

    def _prepare(self, layout: Layout, compiled: bool = False) -> Layout:
        """Prepare the masks of a layout for the attention back-end, once a step."""
        weight = self.head.proj.weight
        dtype = autocast_dtype(weight.device.type) or weight.dtype
        return layout.prepare(choose_backend(self.attention, weight.device, dtype, compiled), dtype)

    def _count_groups(self, rank: Tensor) -> int:
        """Return in how many groups the images of ranks (B, N) are cut to lengths; 0: not worth it, nothing is cut."""
        images, tokens = rank.shape
        least = 8  # images of a group: of fewer, the longest varies more, and there are more shapes to compile
        if rank.is_cuda:  # smaller products hardly take longer than their launch (an estimate)
            least = max(least, (1 << 31) // (tokens * self.backbone.embed_dims**2))
        return max((g for g in (2, 3, 4) if images % g == 0 and images >= g * least), default=0)

    def _weigh(self, loss: Tensor, rank: Tensor) -> Tensor:
        """Scale this process's mean so that the mean over all processes is that over all predicted patches."""
        if not (self.training and torch.distributed.is_initialized()):
            return loss
        here = (rank > 0).sum()
        everywhere = here.clone()
        torch.distributed.all_reduce(everywhere)
        return loss * (here * torch.distributed.get_world_size() / everywhere)

    def _check_shape(self, inputs: Tensor, rank: Tensor) -> None:
        expected = (len(inputs), math.prod(self.backbone.grid(*inputs.shape[2:])))
        if tuple(rank.shape) != expected:
            raise ValueError(f'rank has shape {tuple(rank.shape)}, but these images need (B, N) = {expected}')


def _build_part(part: dict | nn.Module, **sizes: int) -> Any:
    """Build a part unless it is built; fill in sizes that follow from other parts, check given ones."""
    built = part if isinstance(part, nn.Module) else MODELS.build({**sizes, **part})
    for key, value in sizes.items():
        if getattr(built, key) != value:
            raise ValueError(f'{type(built).__name__}: {key}={getattr(built, key)} must be {value}: leave it out')
    return built
