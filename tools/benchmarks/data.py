#!/usr/bin/env python
"""Time the data path of CIFAR-10 alone: mmpretrain's, image by image, and ours, a batch at a time on the device.

Both do everything between images in memory (here random ones) and the normalised batch on the device, in this process,
on one thread, in turns, by configs/_base_/datasets/cifar10_workers.py and cifar10.py. For reference: decoding JPEG
files and cropping them to 224 px by folder.py.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import measure

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS, MODELS
from PIL import Image
from torch import Tensor

import randsac_mm  # noqa: F401  (registers what the configs name)

BASES = measure.CONFIGS / '_base_'
DATA = {'mmpretrain': 'cifar10_workers', 'randsac_mm': 'cifar10'}


class Noise(BaseDataset):
    """Random images of 32 x 32 px."""

    def load_data_list(self) -> list[dict]:
        """Draw 10,240 images."""
        pixels = np.random.default_rng(0).integers(0, 256, (10240, 32, 32, 3), dtype=np.uint8)
        return [{'img': image, 'gt_label': i % 10} for i, image in enumerate(pixels)]


def batches(name: str, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield batches (B, 3, 32, 32), normalised, float32, on a device, without end; ``name`` is one of :data:`DATA`."""
    data = Config.fromfile(BASES / 'datasets' / f'{DATA[name]}.py')
    preprocessor = Config.fromfile(BASES / 'models' / 'randsac_vit-t_32px.py').model.data_preprocessor
    loader = data.train_dataloader
    # In this process, so that a rate is that of one core.
    loader.update(batch_size=batch_size, num_workers=0, persistent_workers=False, pin_memory=False)
    if name == 'randsac_mm':
        loader.dataset.dataset, loader.dataset.device = dict(type=Noise, ann_file=''), str(device)
        prepare = MODELS.build({**preprocessor, 'augment': data.augment, 'patch_size': 4})
        prepare.draw = lambda *batch: {}  # mmpretrain's draws no serialization
    else:
        loader.dataset = dict(type=Noise, ann_file='', pipeline=loader.dataset.pipeline)
        pixels = {key: preprocessor[key] for key in ('mean', 'std', 'to_rgb')}
        prepare = MODELS.build(dict(type='SelfSupDataPreprocessor', **pixels))
    prepare.to(device)
    loader = Runner.build_dataloader(loader, seed=0)
    while True:
        for batch in loader:
            inputs = prepare(batch, training=True)['inputs']
            yield inputs if isinstance(inputs, Tensor) else inputs[0]


def jpeg_rate(count: int) -> float:
    """Return how many JPEG files of about ImageNet's size one core decodes and crops in a second."""
    cfg = Config.fromfile(BASES / 'datasets' / 'folder.py').train_dataloader.dataset
    with tempfile.TemporaryDirectory() as folder:
        for i in range(count):
            Image.effect_noise((500, 375), 20).convert('RGB').save(Path(folder, f'{i}.jpg'), quality=90)
        dataset = DATASETS.build({**cfg, 'data_root': folder})
        return count / measure.seconds_of(lambda: list(map(dataset.__getitem__, range(count))), torch.device('cpu'))


def main(argv: list[str] | None = None) -> None:
    parser = measure.make_parser(__doc__)
    parser.add_argument('--batch-size', type=int, default=512)
    parser.add_argument('--rounds', type=int, default=15)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a rate is that of a core
    init_default_scope('mmpretrain')
    runs = {name: batches(name, args.batch_size, args.device).__next__ for name in DATA}
    for run in runs.values():  # warm up
        run()
    rounds = list(measure.timed_rounds(runs, args.rounds, args.device, times=4))
    spreads = {name: measure.spread([args.batch_size / seconds[name] for seconds in rounds]) for name in runs}
    ratio = median(seconds['mmpretrain'] / seconds['randsac_mm'] for seconds in rounds)
    jpeg = jpeg_rate(args.rounds)
    report = {'images_per_second': spreads, 'ratio': ratio, 'jpeg_files_per_second': jpeg}
    table = [['one core', 'images/s', 'quartiles']]
    for name, rate in spreads.items():
        table.append([name, f'{rate["median"]:,.0f}', '{:,.0f} .. {:,.0f}'.format(*rate['quartiles'])])
    table.append(['JPEG files to 224 px', f'{jpeg:,.0f}', ''])
    text = f'{measure.markdown(table)}\n\nrandsac_mm / mmpretrain, median of {args.rounds} rounds: {ratio:.2f}'
    print(text)
    measure.write_report(report, text, args.out)


if __name__ == '__main__':
    main()
