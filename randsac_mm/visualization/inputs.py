"""From images of any size to the inputs of a model, without augmentation, and back to pixels."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmpretrain.registry import DATASETS
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from randsac_mm.models import RandSAC


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode and without gradients; afterwards every module is in its former mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def sample_photo(name: str = 'flower') -> np.ndarray:
    """Return a photograph of scikit-learn, ``'flower'`` or ``'china'``: (427, 640, 3), uint8, RGB."""
    return load_sample_image(f'{name}.jpg')


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image (H, W, C), uint8, C of 1 or 3, until it just covers a size, and crop its centre: (*size, C)."""
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    return np.array(ImageOps.fit(picture, size[::-1], Image.Resampling.BICUBIC)).reshape(*size, -1)


def to_inputs(model: RandSAC, images: Sequence[np.ndarray]) -> Tensor:
    """Fit and normalise images (H, W, 3), uint8, RGB, to what the model reads: (B, C, *img_size), on its device.

    Raises:
        ValueError: If the model reads neither 1 nor 3 channels.
    """
    channels = model.backbone.in_channels
    if channels not in (1, 3):
        raise ValueError(f'backbone.in_channels={channels}: pictures need 1 (grey) or 3 (colour) channels')
    if channels == 1:
        images = [np.asarray(Image.fromarray(image).convert('L'))[..., None] for image in images]
    elif model.data_preprocessor._channel_conversion:
        images = [image[..., ::-1] for image in images]  # it turns BGR, which mmcv loads, into RGB
    return _normalise(model, images)


def to_pixels(model: RandSAC, inputs: Tensor) -> np.ndarray:
    """Undo the normalisation of a model's inputs (B, C, H, W), C of 1 or 3: (B, H, W, 3), uint8, RGB."""
    preprocessor = model.data_preprocessor
    pixels = inputs.detach().float()
    if preprocessor._enable_normalize:
        pixels = pixels * preprocessor.std + preprocessor.mean
    pixels = pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu()
    return pixels.expand(-1, -1, -1, 3).numpy()


def dataset_inputs(model: RandSAC, cfg: ConfigDict, num: int, seed: int) -> Tensor:
    """Draw images of a config's test, else validation, else training data set and prepare them without augmentation.

    Args:
        model: The model.
        cfg: The config of the run. Only the loading of its pipeline is kept; :func:`fit_image` replaces the rest.
        num: Number of images; a smaller data set is used whole.
        seed: Seed of the choice.

    Returns:
        Normalised images (B, C, *img_size), on the model's device.

    Raises:
        ValueError: If the config has no data set.
    """
    loaders = [cfg[name] for name in ('test_dataloader', 'val_dataloader', 'train_dataloader') if cfg.get(name)]
    if not loaders:
        raise ValueError('the config has no data set; name image files instead (--images)')
    dataset = DATASETS.build(_without_augmentation(loaders[0].dataset))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:num]
    return _normalise(model, [_pixels(dataset[int(i)]) for i in order])


def _normalise(model: RandSAC, images: Sequence[np.ndarray]) -> Tensor:
    fitted = np.stack([fit_image(np.ascontiguousarray(image), model.backbone.img_size) for image in images])
    return model.data_preprocessor({'inputs': torch.from_numpy(fitted).permute(0, 3, 1, 2)})['inputs']


def _without_augmentation(cfg: ConfigDict) -> ConfigDict:
    """Remove random transforms, repetitions, and copies of all images (cache, memory) from a data set's config."""
    kind = str(cfg.type).rpartition('.')[2]
    if kind in ('InMemoryDataset', 'RepeatDataset', 'ClassBalancedDataset'):
        return _without_augmentation(cfg.dataset)
    cfg = cfg.copy()
    if kind == 'CachedImages':
        cfg.type = cfg.pop('source', 'UnlabelledImageFolder')
        for key in ('short_side', 'cache_dir', 'cache_threads'):
            cfg.pop(key, None)
    if 'datasets' in cfg:
        cfg.datasets = [_without_augmentation(part) for part in cfg.datasets]
    if 'dataset' in cfg:
        cfg.dataset = _without_augmentation(cfg.dataset)
    if cfg.get('pipeline'):
        cfg.pipeline = [*(step for step in cfg.pipeline if 'Load' in step.type), dict(type='PackInputs')]
    return cfg


def _pixels(item: dict) -> np.ndarray:
    """Take the image (H, W, C), uint8, of an item: ``inputs``, or ``img`` where there is no pipeline."""
    return item['inputs'].permute(1, 2, 0).cpu().numpy() if 'inputs' in item else np.atleast_3d(item['img'])
