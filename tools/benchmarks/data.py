#!/usr/bin/env python
"""Time the data path of CIFAR-10 alone: mmpretrain's, image by image, and ours, a batch at a time on the device.

Both do everything between the images in memory and the normalised batch: sampling, random resized crop (bicubic,
antialiased, 8-bit), flip, packing, collating, normalising, and on CUDA the transfer. They run in this process, on one
thread, in turns. The settings are those of configs/_base_/datasets/cifar10_workers.py and cifar10.py. One more figure,
for reference: decoding and cropping JPEG files to 224 px by configs/_base_/datasets/folder.py.

Example:
    OMP_NUM_THREADS=1 python tools/benchmarks/data.py --json data.json
    OMP_NUM_THREADS=1 python tools/benchmarks/data.py --device cuda
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from measure import ROOT, environment, median_ratio, now, spread
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS
from PIL import Image
from torch import Tensor

from randsac_mm.datasets import PreparedCIFAR10

OURS, THEIRS = 'randsac_mm', 'mmpretrain'
BASES = {THEIRS: 'cifar10_workers', OURS: 'cifar10'}


class Noise(BaseDataset):
    """Stand in for CIFAR-10 by random images of its shape.

    Args:
        count: Number of images.
        **kwargs: Arguments of mmpretrain's ``BaseDataset``.
    """

    def __init__(self, count: int, **kwargs) -> None:
        self.count = count
        super().__init__(ann_file='', **kwargs)

    def load_data_list(self) -> list[dict]:
        """Draw the images."""
        pixels = np.random.default_rng(0).integers(0, 256, (self.count, 32, 32, 3), dtype=np.uint8)
        return [{'img': image, 'gt_label': i % 10} for i, image in enumerate(pixels)]


def make_path(name: str, data_root: str | None, images: int, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Make an endless iterator over normalised batches (B, 3, 32, 32), float32, on the device.

    Args:
        name: ``OURS`` or ``THEIRS``.
        data_root: Where CIFAR-10 is; None takes random images instead.
        images: Number of images of the data set.
        batch_size: Number of images B in a batch.
        device: Where batches are wanted.
    """
    bases = ROOT / 'configs' / '_base_'
    loader_cfg = Config.fromfile(bases / 'datasets' / f'{BASES[name]}.py')
    preprocessor_cfg = Config.fromfile(bases / 'models' / 'randsac_vit-t_32px.py').model.data_preprocessor
    cfg = loader_cfg.train_dataloader
    # In this process, so that a rate is that of one core and nothing is hidden behind another.
    cfg.update(batch_size=batch_size, num_workers=0, persistent_workers=False, pin_memory=False)
    source = cfg.dataset.dataset if name == OURS else cfg.dataset
    if data_root is None:
        pipeline = source.get('pipeline', ())
        source.clear()
        source.update(type=Noise, count=images, pipeline=pipeline)
    else:
        source.update(data_root=data_root, indices=images)
    if name == OURS:
        cfg.dataset.device = str(device)
        preprocessor = MODELS.build({**preprocessor_cfg, 'augment': loader_cfg.augment, 'patch_size': 4})
        preprocessor.draw = lambda batch: {}  # the other one draws no serialization
    else:
        plain = {key: preprocessor_cfg[key] for key in ('mean', 'std', 'to_rgb')}
        preprocessor = MODELS.build(dict(type='SelfSupDataPreprocessor', **plain))
    preprocessor.to(device)
    loader = Runner.build_dataloader(cfg, seed=0)
    while True:
        for batch in loader:
            inputs = preprocessor(batch, training=True)['inputs']
            yield inputs if isinstance(inputs, Tensor) else inputs[0]


def rate(batches: Iterator[Tensor], count: int, device: torch.device) -> float:
    """Measure the images per second of an iterator over ``count`` batches."""
    start, images = now(device), 0
    for _ in range(count):
        images += len(next(batches))
    return images / (now(device) - start)


def jpeg_rate(count: int, size: tuple[int, int] = (500, 375)) -> dict[str, object]:
    """Measure how fast one core decodes JPEG files and crops them by configs/_base_/datasets/folder.py.

    Args:
        count: Number of files, which are drawn here: smooth colours with noise.
        size: Width and height of the files, in pixels; about ImageNet's.
    """
    cfg = Config.fromfile(ROOT / 'configs' / '_base_' / 'datasets' / 'folder.py').train_dataloader.dataset
    (crop,) = (step for step in cfg.pipeline if step.type == 'RandomResizedCrop')
    crop.scale = 224
    rng, total = np.random.default_rng(0), 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), dtype=np.int16)
            noisy = (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)
            path = Path(folder) / f'{i}.jpg'
            Image.fromarray(noisy).save(path, quality=90)
            total += path.stat().st_size
        dataset = DATASETS.build({**cfg, 'data_root': folder})
        times = []
        for index in range(-1, count):
            start = now(torch.device('cpu'))
            dataset[max(index, 0)]
            times.append(now(torch.device('cpu')) - start)
    return {
        'files': count,
        'size': list(size),
        'bytes_per_file': total // count,
        'images_per_s': 1 / spread(times[1:])['median'],
    }


def measure(args: argparse.Namespace, say: Callable[[str], object] = print) -> dict[str, object]:
    """Run both paths in turns and return all figures; see the module."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    np.random.seed(0)
    init_default_scope('mmpretrain')
    device = torch.device(args.device)
    complete = PreparedCIFAR10(args.data_root, lazy_init=True)._check_integrity() if args.data_root else False
    data_root = args.data_root if complete else None
    what = f'{args.images} images of CIFAR-10' if complete else f'{args.images} random images of 32 x 32 (no CIFAR-10)'
    say(f'{what}, batches of {args.batch_size}, {args.threads} thread(s), {device}')
    paths = {name: make_path(name, data_root, args.images, args.batch_size, device) for name in BASES}
    counts = {THEIRS: args.batches, OURS: args.batches * (1 if device.type == 'cpu' else 8)}
    for name, path in paths.items():
        rate(path, max(counts[name] // 2, 1), device)
    rates: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(args.rounds):
        for name, path in paths.items():
            rates[name].append(rate(path, counts[name], device))
    result = {
        **environment(device),
        'data': what,
        'batch_size': args.batch_size,
        'rounds': args.rounds,
        'images_per_s': {name: {**spread(values), 'all': values} for name, values in rates.items()},
        'ratio': median_ratio(rates[OURS], rates[THEIRS]),
    }
    for name, values in rates.items():
        low, high = spread(values)['quartiles']
        say(f'{name:12s}{spread(values)["median"]:10,.0f} images/s a core   quartiles {low:,.0f} .. {high:,.0f}')
    say(f'ratio, median of {args.rounds} rounds: {result["ratio"]:.2f}')
    if args.jpegs:
        result['jpeg_224'] = jpeg_rate(args.jpegs)
        say(f'for reference: {result["jpeg_224"]["images_per_s"]:,.0f} JPEG files/s a core, decoded and cropped')
    return result


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', default='data/cifar10', help='CIFAR-10; random images if it is not there')
    parser.add_argument('--device', default='cpu', help='cpu or cuda')
    parser.add_argument('--images', type=int, default=10240, help='images of the data set')
    parser.add_argument('--batch-size', type=int, default=512)
    parser.add_argument('--batches', type=int, default=4, help='batches in a round')
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--threads', type=int, default=1, help='threads of torch; 1 makes a rate that of a core')
    parser.add_argument('--jpegs', type=int, default=64, help='JPEG files for the reference figure; 0: none')
    parser.add_argument('--json', type=Path, help='also write all figures to this file')
    args = parser.parse_args(argv)
    for name in ('images', 'batch_size', 'batches', 'rounds', 'threads'):
        if getattr(args, name) < 1:
            parser.error(f'--{name.replace("_", "-")} {getattr(args, name)} must be at least 1')
    if args.images < args.batch_size:
        parser.error(f'--images {args.images} is less than one batch: at least --batch-size {args.batch_size}')
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    result = measure(args)
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
