"""An image whose sides no patch size divides, and a predictor of each task with its config and weights."""

import numpy as np
import pytest
from inference.tiny import mask_rcnn, save_weights, upernet
from PIL import Image

from randsac_mm.inference import Predictor

MAKE = {'segmentation': upernet, 'detection': mask_rcnn}


def photo(path, height=53, width=91, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(params=list(MAKE))
def task(request):
    return request.param


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    found = {}
    for name, make in MAKE.items():
        cfg = make()
        cfg.dump(folder / f'{name}.py')
        meta = dict(classes=cfg.test_dataloader.dataset.metainfo.classes, palette=[(9, 99, 199)] * 3)
        found[name] = folder / f'{name}.py', save_weights(cfg, folder / f'{name}.pth', dataset_meta=meta)
    return found


@pytest.fixture(scope='module')
def predictors(trained):
    """One predictor per task; both live in one process."""
    return {name: Predictor(*files) for name, files in trained.items()}
