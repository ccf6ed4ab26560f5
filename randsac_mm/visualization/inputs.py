"""From images of any size to the inputs of a model, without augmentation, and back to pixels."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmpretrain.registry import DATASETS
from torch import Tensor, nn

from randsac_mm.datasets import find_image_files, fit_image, read_image, spread
from randsac_mm.models import RandSAC


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode and without gradients; afterwards it is in its former mode."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def choose_images(model: RandSAC, cfg: Config, paths: Sequence[Path], num: int, seed: int) -> tuple[Tensor, list[str]]:
    """Prepare at most ``num`` images of files and folders, or without any of the config's data set.

    Of more files they are spread over the sorted list, so that they come from all folders.
    The data set is the config's test, else validation, else training data, drawn from by ``seed``. Only the loading of
    its pipeline is kept; :func:`fit_image` replaces the rest.

    Returns:
        Normalised images (B, C, *img_size), on the model's device, and a name for each.

    Raises:
        FileNotFoundError: If there is no image in the folders.
        ValueError: If the config has no data set, or an image cannot be read.
    """
    if not paths:
        loaders = [cfg[name] for name in ('test_dataloader', 'val_dataloader', 'train_dataloader') if cfg.get(name)]
        if not loaders:
            raise ValueError('the config has no data set; name image files instead (--images)')
        dataset = DATASETS.build(_without_augmentation(loaders[0].dataset))
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:num].tolist()
        return _normalise(model, [_pixels(dataset[i]) for i in order]), [str(i) for i in range(len(order))]
    files = [file for path in paths for file in (find_image_files(path) if path.is_dir() else [path])]
    if not files:
        raise FileNotFoundError(f'--images {" ".join(map(str, paths))}: there is no image')
    files = spread(files, num)[:num]
    return to_inputs(model, [read_image(file) for file in files]), [str(file) for file in files]


def to_inputs(model: RandSAC, images: Sequence[np.ndarray]) -> Tensor:
    """Fit and normalise images (H, W, 3), uint8, RGB, to what a model of 1 or 3 channels reads: (B, C, *img_size)."""
    if model.data_preprocessor._channel_conversion:
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


def _normalise(model: RandSAC, images: Sequence[np.ndarray]) -> Tensor:
    size, grey = model.backbone.img_size, model.backbone.in_channels == 1
    fitted = np.stack([fit_image(np.ascontiguousarray(image), size, grey) for image in images])
    return model.data_preprocessor({'inputs': torch.from_numpy(fitted).permute(0, 3, 1, 2)})['inputs']


def _pixels(item: dict) -> np.ndarray:
    """Return the image (H, W, C), uint8, of an item: ``inputs``, or ``img`` where there is no pipeline."""
    return item['inputs'].permute(1, 2, 0).cpu().numpy() if 'inputs' in item else np.atleast_3d(item['img'])


def _without_augmentation(cfg: ConfigDict) -> ConfigDict:
    """Remove random transforms, repetitions, and copies of all images (cache, memory) from a data set's config."""
    if 'dataset' in cfg:
        return _without_augmentation(cfg.dataset)
    cfg = cfg.copy()
    if str(cfg.type).endswith('CachedImages'):
        cfg.type = cfg.pop('source', 'UnlabelledImageFolder')
        for key in ('short_side', 'cache_dir'):
            cfg.pop(key, None)
    if 'datasets' in cfg:
        cfg.datasets = [_without_augmentation(part) for part in cfg.datasets]
    if cfg.get('pipeline'):
        cfg.pipeline = [*(step for step in cfg.pipeline if 'Load' in step.type), dict(type='PackInputs')]
    return cfg
