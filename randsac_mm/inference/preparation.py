"""From a config of training to mmseg's or mmdet's own inferencer, without weights."""

import importlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.infer import BaseInferencer
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, TRANSFORMS

from randsac_mm.datasets import use_strict_readers

# Named, not imported: this package must work where neither library is installed.
_INFERENCERS = {'mmseg': 'MMSegInferencer', 'mmdet': 'DetInferencer'}
_VISUALIZERS = {'mmseg': 'SegLocalVisualizer', 'mmdet': 'DetLocalVisualizer'}


def find_scope(cfg: Config) -> str:
    """Return the library that a config is for, ``'mmseg'`` or ``'mmdet'``.

    Raises:
        ValueError: If it is for neither, or has no pipeline for the images.
    """
    scope = cfg.get('default_scope')
    if scope not in _INFERENCERS:
        raise ValueError(
            f'default_scope={scope!r} is not mmseg or mmdet; for a pre-training model use '
            'tools/visualization/reconstruct.py CONFIG CHECKPOINT'
        )
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    if not dataset.get('pipeline'):
        raise ValueError(
            f'the config has no test_dataloader.dataset.pipeline (its data set is {dataset.get("type")!r}): '
            'name one data set with a pipeline, no wrapper of data sets'
        )
    return scope


def prepare(cfg: Config, scope: str) -> Callable[[dict], dict]:
    """Change a config in place for prediction of arrays, without initial weights and logging.

    Returns:
        The first transform of its pipeline, which reads an image file.
    """
    use_strict_readers(cfg)
    pipeline = cfg.test_dataloader.dataset.pipeline
    load = TRANSFORMS.build(pipeline[0])
    pipeline[0] = ConfigDict(type='LoadImageFromFile')  # where the inferencers put arrays in
    _drop_initial_weights(cfg.model)
    opacity = {'alpha': 0.5} if scope == 'mmdet' else {}
    kept = {
        'type': _VISUALIZERS[scope],
        **opacity,
        **{k: v for k, v in (cfg.get('visualizer') or {}).items() if k == 'alpha'},
    }
    cfg.visualizer = ConfigDict(kept, vis_backends=[])
    if scope == 'mmseg':
        _pad_small_images(cfg.model)
    return load


def build_inferencer(cfg: Config, scope: str, device: str) -> BaseInferencer:
    """Build the inferencer of a library, which is the default scope, from a config that :func:`prepare` has changed.

    Raises:
        ValueError: If the library is not installed, or there is no such device.
    """
    check_device(device)
    try:
        inferencer = getattr(importlib.import_module(f'{scope}.apis'), _INFERENCERS[scope])
    except ImportError as error:
        raise ValueError(
            f'the config needs {scope}, which is missing or broken ({error}); see requirements/transfer.txt'
        ) from error
    # Keeps mmdet from building a data set for its colours; those of describe_classes replace them.
    extra: dict[str, Any] = {'palette': 'random'} if scope == 'mmdet' else {}
    logger = MMLogger.get_current_instance()
    level = logger.level
    with warnings.catch_warnings():
        # Weights are loaded afterwards, strictly; nothing is trained, so the losses do not matter.
        warnings.filterwarnings('ignore', message='Checkpoint is not loaded|weights is None|Default ``avg_non_ignore``')
        logger.setLevel('ERROR')  # mmengine's inferencer warns of a registry that neither library has
        try:
            return inferencer(cfg, device=device, scope=scope, show_progress=False, **extra)
        finally:
            logger.setLevel(level)


def describe_classes(cfg: Config, trained: dict, num_classes: int) -> dict[str, list]:
    """Return ``classes``, names of the classes that a model predicts, and ``palette``, their colours in RGB.

    They are those of ``trained``, the checkpoint's ``dataset_meta``, or of the config's test data set.

    Raises:
        ValueError: If another number of classes is named.
    """
    meta = {key.lower(): value for key, value in trained.items()}
    if not meta.get('classes'):
        meta = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True)).metainfo
    classes, palette = list(meta.get('classes') or ()), meta.get('palette')
    if len(classes) != num_classes:
        raise ValueError(
            f'the model predicts {num_classes} classes, but its data set names {len(classes)}: set '
            'classes of test_dataloader.dataset and num_classes of the heads to the same classes'
        )
    if not isinstance(palette, list | tuple) or len(palette) != num_classes:
        palette = np.random.default_rng(0).integers(0, 256, (num_classes, 3)).tolist()
    return {'classes': classes, 'palette': [tuple(color) for color in palette]}


def check_device(name: str) -> None:
    """Raise ValueError if there is no such device."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'device={name!r} is unknown: {str(error).splitlines()[0]}') from error
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f'device={name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu')


def _drop_initial_weights(cfg: Any) -> None:
    """Remove all initial weights, whose files need not exist."""
    if isinstance(cfg, dict):
        for key in ('pretrained', 'init_cfg'):
            cfg.pop(key, None)
    for value in cfg.values() if isinstance(cfg, dict) else cfg:
        if isinstance(value, dict | list | tuple):
            _drop_initial_weights(value)


def _pad_small_images(model: ConfigDict) -> None:
    """Pad images to multiples of the patch size, or to a sliding window, unless the config has its own padding."""
    preprocessor, patch = model.get('data_preprocessor'), model.backbone.get('patch_size')
    if not preprocessor or preprocessor.get('test_cfg') or not patch:
        return
    slide = (model.get('test_cfg') or {}).get('mode') == 'slide'
    preprocessor.test_cfg = dict(size=model.test_cfg.crop_size) if slide else dict(size_divisor=patch)
