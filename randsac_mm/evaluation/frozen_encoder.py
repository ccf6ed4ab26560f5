"""A frozen encoder with its preprocessing: features of images of any size, by one way for all who ask."""

import copy
import logging
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmpretrain.registry import MODELS
from PIL import Image, ImageOps
from torch import Tensor, nn

from randsac_mm.datasets import UnreadableImageError, fit_image, read_image
from randsac_mm.engine.resources import cores_per_process
from randsac_mm.transfer import load_backbone

from .features import extract_features, normalise

_ENLARGED = 8 / 7  # of the shorter side before the central crop: 256 for 224 pixels
_THREADS = 8  # at least, for network file systems
_AHEAD = 2  # batches that are read while one is computed


class FrozenEncoder:
    """Backbone of a run with its preprocessing.

    Images of the encoder's size stay as they are. Of larger ones the shorter side is resized to 8/7 of that size and
    the middle cut out, as usual for ImageNet; others are resized until they just cover the size, and cropped.

    Args:
        cfg: The config of the run.
        checkpoint: Its checkpoint. None: the encoder is untrained.
        device: Where to compute features.
        seed: Of the weights of an untrained encoder.

    Attributes:
        image_size: Height and width in pixels, those of the training.
        channels: 3 (RGB) or 1 (grey).

    Raises as :func:`build_encoder`.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path | None = None, device: str = 'cpu', seed: int = 0) -> None:
        self.cfg, self.checkpoint, self.device = cfg, checkpoint, device
        self.backbone = build_encoder(cfg, checkpoint, seed).to(device)
        size = getattr(self.backbone, 'img_size', None)
        self.has_size = size is not None  # other backbones take any
        self.image_size: tuple[int, int] = (size, size) if isinstance(size, int) else tuple(size or (224, 224))
        self.channels: int = getattr(self.backbone, 'in_channels', 3)
        settings = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        # Without its `to_rgb`: these images are RGB, not BGR as mmcv reads them.
        self._preprocessor = ImgDataPreprocessor(settings.get('mean'), settings.get('std')).to(device)

    @cached_property
    def dims(self) -> int:
        """Dimensions D of a feature."""
        return self.embed(np.zeros((*self.image_size, 3), np.uint8)).shape[1]

    @cached_property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.image_size[0] // self.patch_features(np.zeros((*self.image_size, 3), np.uint8)).shape[2]

    @property
    def preparation(self) -> str:
        """What is done to images, in one line."""
        height, width = self.image_size
        return (
            f'images of {height} x {width} pixels as they are; of larger ones the shorter side is resized to '
            f'{round(max(height, width) * _ENLARGED)} and the middle cut out; others are resized to cover that size'
        )

    def embed(self, images: Any, batch_size: int = 64, average: bool = True) -> Tensor:
        """Compute the averaged tokens of images: (N, D), float32, on the CPU; see :func:`extract_features`.

        Images are paths, Pillow's, or arrays of uint8, (H, W, 3) in RGB, (H, W, 1) or (H, W); one or many.

        Raises:
            ValueError: If there is no image, or one cannot be read.
        """
        if isinstance(images, str | os.PathLike | Image.Image) or (isinstance(images, np.ndarray) and images.ndim < 4):
            images = [images]
        features = []
        for batch in self.prepare_batches(images, batch_size):
            for error in filter(lambda image: isinstance(image, Exception), batch):
                raise error
            features.append(extract_features(self.backbone, torch.stack(batch), batch_size, self.preprocess, average))
        if not features:
            raise ValueError('there is no image')
        return torch.cat(features)

    def patch_features(self, images: Any, batch_size: int = 64) -> Tensor:
        """Compute the tokens of images as maps (N, D, h, w); otherwise as :meth:`embed`."""
        return self.embed(images, batch_size, average=False)

    def prepare_batches(self, images: Iterable, batch_size: int) -> Iterator[list[Tensor | UnreadableImageError]]:
        """Yield batches of prepared images (C, H, W), read ahead by threads; errors of files are in their places."""

        def prepare(image: Any) -> Tensor | UnreadableImageError:
            try:
                return self.prepare(image)
            except UnreadableImageError as error:
                return error

        source, ahead = iter(images), deque[list[Future]]()
        with ThreadPoolExecutor(max(_THREADS, cores_per_process())) as pool:
            while (batch := list(islice(source, batch_size))) or ahead:
                if batch:
                    ahead.append([pool.submit(prepare, image) for image in batch])
                if len(ahead) > _AHEAD or not batch:
                    yield [future.result() for future in ahead.popleft()]

    def prepare(self, image: Any) -> Tensor:
        """Read an image and fit it to the encoder: ``(channels, *image_size)``, uint8, RGB or grey."""
        if isinstance(image, str | os.PathLike):
            image = read_image(image)
        pixels = np.atleast_3d(_from_pillow(image) if isinstance(image, Image.Image) else image)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise ValueError(f'an image is {pixels.dtype} of {pixels.shape}, expected uint8, (H, W), (H, W, 1 or 3)')
        if pixels.shape[2] != self.channels:
            pixels = mmcv.rgb2gray(pixels, keepdim=True) if self.channels == 1 else pixels.repeat(self.channels, 2)
        return torch.from_numpy(np.array(_fit(pixels, self.image_size))).permute(2, 0, 1)

    def preprocess(self, images: Tensor) -> Tensor:
        """Fit images (B, C, H, W), 0 .. 255, RGB or grey, to the encoder, on its device, and normalise them."""
        if self.has_size and tuple(images.shape[2:]) != self.image_size:
            pixels = images.byte().permute(0, 2, 3, 1).cpu().numpy()
            images = torch.stack([self.prepare(image) for image in pixels]).to(self.device)
        return normalise(self._preprocessor, images.float())


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Fit an image (H, W, C), see :class:`FrozenEncoder`."""
    short = min(image.shape[:2])
    if short <= max(size):
        return fit_image(image, size)  # without a change, if it has that size
    scale = round(max(size) * _ENLARGED)
    height, width = (int(scale * side / short) for side in image.shape[:2])  # as mmpretrain's ResizeEdge
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    resized = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return resized[top : top + size[0], left : left + size[1]]


def _from_pillow(image: Image.Image) -> np.ndarray:
    """Return an upright image (H, W, 3), transparency on white, as of a file of it."""
    if image.mode[0] in 'IF':
        raise ValueError(f"an image has Pillow's mode {image.mode}, which has no agreed range; name its file instead")
    image = ImageOps.exif_transpose(image).convert('RGBA')
    return np.asarray(Image.alpha_composite(Image.new('RGBA', image.size, 'white'), image).convert('RGB'))


def build_encoder(cfg: Config, checkpoint: str | Path | None = None, seed: int = 0) -> nn.Module:
    """Build the backbone of a config: with the weights of a checkpoint, or untrained with those of a seed.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the config has no ``model.backbone``, or the checkpoint does not fit it.
    """
    settings = (cfg.get('model') or {}).get('backbone')
    if not settings:
        raise ValueError('the config has no model.backbone: use the one that the checkpoint was trained with')
    backbone = build_untrained({key: value for key, value in settings.items() if key != 'init_cfg'}, seed)
    if checkpoint is not None:
        load_backbone(backbone, checkpoint)
    return backbone


def build_untrained(settings: dict, seed: int) -> nn.Module:
    """Build a module of mmpretrain with the weights of a seed; torch's random state is put back."""
    logging.disable(logging.INFO)  # mmengine logs every tensor that it initialises
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = MODELS.build(copy.deepcopy(settings))
            module.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    return module
