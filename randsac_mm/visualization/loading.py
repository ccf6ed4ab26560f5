"""Between files and models: weights, images of any size, pixels of what a model sees."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmpretrain.registry import DATASETS
from PIL import Image
from sklearn.datasets import load_sample_image
from torch import Tensor, nn

from randsac_mm.models import RandSAC
from randsac_mm.transfer.reading import find_state, read_checkpoint


def load_weights(model: RandSAC, path: str | Path) -> None:
    """Load a checkpoint into a model, all of it or not at all.

    Args:
        model: The model.
        path: A checkpoint of the same config.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it cannot be read safely, or a tensor is missing, left over or of another shape; all are listed.
    """
    state = find_state(read_checkpoint(path), path)
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    unexpected = sorted(state.keys() - own.keys())
    shapes = [
        f'{key}: {tuple(state[key].shape)} in the checkpoint, {tuple(own[key].shape)} in the model'
        for key in sorted(own.keys() & state.keys())
        if state[key].shape != own[key].shape and key != 'backbone.pos_embed'  # fixed, made for the model's own grid
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f'{path} does not fit the config, nothing was loaded.\n  missing: {missing}\n  left over: {unexpected}\n'
            f'  other shape: {shapes}\nUse the config that it was trained with'
        )
    model.load_state_dict(state)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode and without gradients; afterwards each of its modules is in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def sample_photo(name: str = 'flower') -> np.ndarray:
    """Read a photograph that ships with scikit-learn, ``'flower'`` or ``'china'``: (427, 640, 3), uint8, RGB."""
    return load_sample_image(f'{name}.jpg')


def fit_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image until it just covers a size, and cut out its centre.

    Args:
        image: Array (H, W, C), uint8; C is 1 or 3.
        size: Height and width that are wanted, in pixels.

    Returns:
        Array (*size, C), uint8.
    """
    height, width = size
    scale = max(height / image.shape[0], width / image.shape[1])
    covering = (max(width, round(image.shape[1] * scale)), max(height, round(image.shape[0] * scale)))
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    resized = picture.resize(covering, Image.Resampling.BICUBIC)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    return np.array(resized.crop((left, top, left + width, top + height))).reshape(height, width, -1)


def to_inputs(model: RandSAC, images: Sequence[np.ndarray]) -> Tensor:
    """Prepare images of any size for a model, without augmentation.

    Args:
        model: The model; its backbone says the size, its data preprocessor the normalisation and the channel order.
        images: Arrays (H, W, 3), uint8, RGB.

    Returns:
        Normalised images (B, C, *img_size), on the model's device.

    Raises:
        ValueError: If the model reads neither 1 nor 3 channels.
    """
    channels, preprocessor = model.backbone.in_channels, model.data_preprocessor
    if channels not in (1, 3):
        raise ValueError(
            f'backbone.in_channels={channels}: pictures can be made of 1 (grey) or 3 (colour) channels only'
        )
    fitted = [fit_image(image, model.backbone.img_size) for image in images]
    if channels == 1:
        fitted = [np.asarray(Image.fromarray(image).convert('L'))[..., None] for image in fitted]
    batch = torch.from_numpy(np.stack(fitted)).permute(0, 3, 1, 2)
    if preprocessor._channel_conversion:
        batch = batch.flip(1)  # it expects what mmcv loads, BGR, and will turn it round
    return preprocessor({'inputs': batch})['inputs']


def to_pixels(model: RandSAC, inputs: Tensor) -> np.ndarray:
    """Undo the normalisation of a model's inputs.

    Args:
        model: The model.
        inputs: Normalised images (B, C, H, W); C is 1 or 3.

    Returns:
        Array (B, H, W, 3), uint8, RGB.
    """
    preprocessor = model.data_preprocessor
    pixels = inputs.detach().float()
    if preprocessor._enable_normalize:
        pixels = pixels * preprocessor.std + preprocessor.mean
    pixels = pixels.clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu()
    return pixels.expand(-1, -1, -1, 3).numpy()


def dataset_inputs(model: RandSAC, cfg: ConfigDict, num: int, seed: int) -> Tensor:
    """Pick images of a config's data set and prepare them without augmentation.

    Args:
        model: The model.
        cfg: The config of the run. Its test, else validation, else training data set is used, with everything in the
            pipeline but loading replaced by :func:`fit_image`.
        num: Number of images.
        seed: Of the choice.

    Returns:
        Normalised images (B, C, *img_size), on the model's device; B is ``num``, or less for a smaller data set.

    Raises:
        ValueError: If the config has no data set.
    """
    loaders = [cfg[name] for name in ('test_dataloader', 'val_dataloader', 'train_dataloader') if cfg.get(name)]
    if not loaders:
        raise ValueError('the config has no data set; name image files instead')
    dataset = DATASETS.build(_without_augmentation(loaders[0].dataset))
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:num]
    fitted = np.stack([fit_image(_pixels(dataset[int(i)]), model.backbone.img_size) for i in order])
    return model.data_preprocessor({'inputs': torch.from_numpy(fitted).permute(0, 3, 1, 2)})['inputs']


def _without_augmentation(cfg: ConfigDict) -> ConfigDict:
    """Give the config of a data set without random transforms, repetitions, and copies of all its images."""
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
    """Take an image (H, W, C), uint8, out of an item: a tensor ``inputs``, or ``img`` if there is no pipeline."""
    return item['inputs'].permute(1, 2, 0).cpu().numpy() if 'inputs' in item else np.atleast_3d(item['img'])
