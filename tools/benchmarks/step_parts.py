"""The data path alone, and whole runs of our configs with all their hooks, on pictures that are made up here."""

import argparse
import copy
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import now
from mmcv.transforms import Compose
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import DATASETS, MODELS
from PIL import Image
from step_models import CONFIGS, KNOWN
from torch.utils.data import Dataset

from randsac_mm.engine import launch
from randsac_mm.engine.resources import cores_per_process, fit_workers

SKIPPED = 3  # steps, or batches, before the clock starts: workers start, kernels are chosen and compiled
STEPS = {'cpu': 8, 'cuda': 40}
_PHOTOS = 64  # different files; more images are links to them


@DATASETS.register_module(force=True)
class BenchmarkImages(Dataset):
    """Give small random images, each as a data set of arrays does.

    Args:
        count: Number of images.
        size: Their side in pixels.
        pipeline: Transforms, as of any data set.
    """

    def __init__(self, count: int, size: int, pipeline: list[dict] | tuple = ()) -> None:
        self.images = np.random.default_rng(0).integers(256, size=(count, size, size, 3), dtype=np.uint8)
        self.pipeline = Compose(pipeline)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, idx: int) -> dict:
        return self.pipeline(dict(img=self.images[idx], gt_label=0))


@HOOKS.register_module(force=True)
class BenchmarkClockHook(Hook):
    """Note when the first counted step begins and the last one ends.

    Attributes:
        begin: Time in seconds at the end of the last step that does not count; 0 before.
        end: Time in seconds at the end of training.
        steps: Steps between them.
    """

    priority = 'LOWEST'
    begin, end, steps = 0.0, 0.0, 0

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Look at the clock once everybody else has done their work."""
        if batch_idx == SKIPPED - 1:
            self.begin = now(next(runner.model.parameters()).device)
        elif batch_idx >= SKIPPED:
            self.steps += 1

    def after_train_epoch(self, runner: Runner) -> None:
        """Look at the clock a last time."""
        self.end = now(next(runner.model.parameters()).device)


def data_path(name: str, args: argparse.Namespace) -> dict:
    """Time what makes batches of a config: loader, augmentation, normalisation, serialization; no model.

    Args:
        name: Key of the models.
        args: ``batch``, ``device``.

    Returns:
        ``images_per_second`` and what it was measured on.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg, batch = run_config(name, args, Path(folder))
        init_default_scope('mmpretrain')
        prepare = copy.deepcopy(cfg.model.data_preprocessor)
        prepare.setdefault('patch_size', cfg.model.backbone.patch_size)
        prepare = MODELS.build(prepare).to(args.device)
        begin = count = 0
        for i, data in enumerate(Runner.build_dataloader(cfg.train_dataloader, seed=0)):
            prepare(data, training=True)
            # Workers finish their first batches together.
            if i == max(SKIPPED, cfg.train_dataloader.num_workers):
                begin = now(args.device)
            elif begin:
                count += 1
        seconds = now(args.device) - begin
    workers = cfg.train_dataloader.num_workers
    return _figures('data', name, batch, count, seconds) | {'workers': workers}


def whole_run(name: str, args: argparse.Namespace) -> dict:
    """Time ``Runner.train`` of a config as tools/train.py builds it, with all its hooks.

    Args:
        name: Key of the models.
        args: ``batch``, ``device``, ``dtype``.

    Returns:
        ``images_per_second`` and what it was measured on.
    """
    with tempfile.TemporaryDirectory() as folder:
        cfg, batch = run_config(name, args, Path(folder))
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), dict(type='BenchmarkClockHook')]
        runner = launch.build_runner(cfg)
        runner.train()
        (clock,) = (hook for hook in runner.hooks if isinstance(hook, BenchmarkClockHook))
    hooks = [type(hook).__name__ for hook in runner.hooks]
    return _figures('run', name, batch, clock.steps, clock.end - clock.begin) | {'hooks': hooks}


def run_config(name: str, args: argparse.Namespace, folder: Path) -> tuple[Config, int]:
    """Take a config and let it run one short epoch of made-up images.

    Args:
        name: Key of the models.
        args: ``batch``, ``device``, ``dtype``.
        folder: Where images and logs may lie.

    Returns:
        The config and the number of images in a step.
    """
    entry, cuda = KNOWN[name], args.device.type == 'cuda'
    tiny = entry.config == 'tiny'
    cfg = Config.fromfile(CONFIGS / ('smoke/randsac_vit_digits.py' if tiny else entry.config))
    batch = args.batch or (64 if tiny else entry.batch[cuda])
    loader = cfg.train_dataloader
    fit_workers(cfg, {})
    workers = min(loader.num_workers, cores_per_process())
    steps = STEPS[args.device.type] + max(SKIPPED, workers) + 1
    if not tiny:
        _replace_images(loader.dataset, folder, steps * batch)
    loader.update(batch_size=batch, num_workers=workers)
    cfg.merge_from_dict(
        {
            'work_dir': str(folder / 'run'),
            'experiment_name': f'benchmark_{name}_{time.time_ns()}',
            'log_level': 'WARNING',
            'launcher': 'none',
            'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=1),
            'optim_wrapper.type': 'OptimWrapper' if args.dtype == 'fp32' else 'AutocastOptimWrapper',
            'default_hooks.checkpoint.save_last': False,
        }
    )
    if not cuda:
        loader.pop('pin_memory', None)  # nothing to pin for; torch would warn
    launch.skip_validation(cfg)
    return cfg, batch


def _replace_images(dataset: dict, folder: Path, count: int) -> None:
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    if dataset['type'] == 'ImageNet':
        write_photos(folder / 'photos' / 'train' / 'class', count)
        dataset['data_root'] = str(folder / 'photos')
        return
    pipeline = dataset.get('pipeline', [])
    dataset.clear()
    dataset.update(type='BenchmarkImages', count=count, size=32, pipeline=pipeline)


def write_photos(folder: Path, count: int) -> None:
    """Write JPEG files of 500 x 375 pixels and about the size of ImageNet's, 110 kB.

    Args:
        folder: Where; it is made.
        count: How many; 64 differ, the others are links to them.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        path = folder / f'{i:06d}.JPEG'
        if i >= _PHOTOS:
            os.link(folder / f'{i % _PHOTOS:06d}.JPEG', path)
            continue
        shapes = Image.fromarray(rng.integers(256, size=(24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
        texture = rng.normal(scale=20, size=(375, 500, 1))
        picture = np.clip(np.asarray(shapes) + texture, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(path, quality=90)


def _figures(part: str, name: str, batch: int, steps: int, seconds: float) -> dict:
    return {
        'part': part,
        'model': name,
        'batch': batch,
        'steps': steps,
        'seconds': seconds,
        'images_per_second': steps * batch / seconds,
    }
