#!/usr/bin/env python
"""Decode the images of a config's training set once, into a file that training then reads.

python tools/cache_images.py configs/randsac/vit-b_in1k.py --cfg-options train_dataloader.dataset.short_side=320
"""

import argparse
import sys

from mmengine.config import DictAction
from mmpretrain.registry import DATASETS

from randsac_mm.engine import launch

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE', help='change the config')
    args = parser.parse_args()
    try:
        cfg = launch.load_config(args.config, args.cfg_options, None, 'none')
        dataset = cfg.train_dataloader.dataset
        if dataset.type != 'CachedImages':
            dataset.update(type='CachedImages', source=dataset.type)
        images = DATASETS.build(dataset)
    except (OSError, ValueError) as error:
        sys.exit(f'cache_images: {error}')
    print(f'{len(images):,} images in {images.folder}')
    source = dataset.get('source', 'UnlabelledImageFolder')
    print(f'To use them, add train_dataloader.dataset.source={source} train_dataloader.dataset.type=CachedImages')
