"""Contract: real ADE20K images train and validate, and classes that nobody labels or predicts do not count."""

import numpy as np
import pytest
from segmentation.tiny import ROOT

from randsac_mm.engine.launch import build_runner, load_config

SMALLER = {
    'model.backbone.arch.embed_dims': 16,
    'model.backbone.arch.feedforward_channels': 32,
    'model.neck.embed_dims': 16,
    'model.decode_head.in_channels': [16] * 4,
    'model.auxiliary_head.in_channels': 16,
    'model.auxiliary_head.channels': 8,
}


@pytest.mark.slow
def test_real_samples_train_and_validate(shared_data, tmp_path):
    folder = str(shared_data / 'ade20k_sample')
    changes = {f'{split}_dataloader.dataset.data_root': folder for split in ('train', 'val', 'test')}
    for split, step in (('train', 2), ('val', 1), ('test', 1)):
        changes[f'{split}_dataloader.dataset.pipeline.{step}.scale'] = (96, 64)
    changes |= {**SMALLER, 'model.backbone.arch.num_layers': 4, 'model.backbone.arch.num_heads': 2}
    changes['model.decode_head.channels'] = 16  # two in each of eight groups
    changes |= {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2}
    config = ROOT / 'configs' / 'smoke' / 'upernet_vit_ade20k-sample.py'
    cfg = load_config(str(config), changes, str(tmp_path), 'none')
    cfg.experiment_name = cfg.visualizer.name = tmp_path.name  # mmengine allows one of a name
    run = build_runner(cfg)
    run.train()
    assert len(run.val_dataloader.dataset) == 3
    table = next(tmp_path.rglob('*.log')).read_text()
    rows = [line.split('|')[1:4] for line in table.splitlines() if line.startswith('|')]
    scores = {name.strip(): float(iou) for name, iou, _ in rows if name.strip() != 'Class'}
    assert len(scores) == 150
    present = [score for score in scores.values() if not np.isnan(score)]
    # Classes that nobody labels or predicts are left out of the mean.
    assert len(present) < 150
    assert run.message_hub.get_scalar('val/mIoU').current() == pytest.approx(np.mean(present), abs=0.01)
