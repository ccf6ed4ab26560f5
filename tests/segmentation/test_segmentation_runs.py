"""Contract: training, validation, checkpoints, resuming and testing work through our tools, with mmseg's own metric."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from segmentation.conftest import ROOT

from randsac_mm.engine import launch

SMOKE = ROOT / 'configs' / 'smoke'
SMALLER = {
    'model.backbone.arch.embed_dims': 16,
    'model.backbone.arch.feedforward_channels': 32,
    'model.neck.embed_dims': 16,
    'model.decode_head.in_channels': [16] * 4,
    'model.decode_head.channels': 8,
    'model.auxiliary_head.in_channels': 16,
    'model.auxiliary_head.channels': 8,
}


class Stop(Hook):
    """Interrupts a run."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


def options(shapes: Path) -> dict:
    datasets = {f'{split}_dataloader.dataset.data_root': str(shapes) for split in ('train', 'val', 'test')}
    return {
        **SMALLER,
        **datasets,
        'train_cfg.max_iters': 4,
        'train_cfg.val_interval': 2,
        'param_scheduler.0.end': 2,
        'param_scheduler.1.begin': 2,
        'param_scheduler.1.end': 4,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
    }


def runner(work_dir: Path, changes: dict, config: str = 'upernet_vit_shapes', resume: bool = False):
    cfg = launch.load_config(str(SMOKE / f'{config}.py'), changes, str(work_dir), 'none')
    cfg.experiment_name = cfg.visualizer.name = f'{work_dir.name}_{resume}'  # mmengine allows one of a name
    if resume:
        launch.use_resume(cfg, 'latest')
    return launch.build_runner(cfg)


@pytest.fixture(scope='module')
def whole(shapes, tmp_path_factory):
    """An uninterrupted run of four steps, with its final metrics."""
    torch.manual_seed(0)
    work_dir = tmp_path_factory.mktemp('runs') / 'whole'
    run = runner(work_dir, options(shapes))
    before = {name: value.clone() for name, value in run.model.named_parameters()}
    run.train()
    return run, before, work_dir


def test_smoke_run_trains_validates_and_saves(whole):
    run, before, work_dir = whole
    for name, parameter in run.model.named_parameters():
        assert torch.isfinite(parameter).all()
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert sorted(path.name for path in work_dir.glob('*.pth')) == ['iter_2.pth', 'iter_4.pth']
    assert 0 <= run.message_hub.get_scalar('val/mIoU').current() <= 100
    assert next(work_dir.rglob('*.log')).read_text().count('mIoU:') == 2


@pytest.mark.slow
def test_interrupted_and_resumed_run_ends_with_the_same_bits(whole, shapes, tmp_path):
    parts = runner(tmp_path / 'parts', options(shapes))
    parts.register_hook(Stop(3))
    with pytest.raises(KeyboardInterrupt):
        parts.train()
    resumed = runner(tmp_path / 'parts', options(shapes), resume=True)
    resumed.train()
    for (key, expected), value in zip(
        whole[0].model.state_dict().items(), resumed.model.state_dict().values(), strict=True
    ):
        assert torch.equal(expected, value), key


def test_the_test_script_prints_the_miou_of_the_training(whole, shapes, tmp_path, monkeypatch):
    run, _, work_dir = whole
    changes = [f'{key}={value}' for key, value in options(shapes).items()]
    arguments = [SMOKE / 'upernet_vit_shapes.py', work_dir / 'iter_4.pth', '--out', tmp_path / 'metrics.json']
    arguments += ['--work-dir', tmp_path / 'test', '--cfg-options', *changes]
    arguments += ['experiment_name=test', 'visualizer.name=test']
    monkeypatch.setattr(sys, 'argv', ['test.py', *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools' / 'test.py'), run_name='__main__')
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert set(metrics) == {'aAcc', 'mIoU', 'mAcc'}
    assert metrics['mIoU'] == pytest.approx(run.message_hub.get_scalar('val/mIoU').current())


def test_it_learns(tiny_model, batch):
    """Twenty steps on one batch of coloured halves at least halve the loss."""
    norm = dict(norm_cfg=dict(_delete_=True, type='GN', num_groups=4))
    model = tiny_model(classes=3, neck=norm, decode_head=norm, auxiliary_head=norm).train()
    data = batch((48, 48), (48, 48))
    for image, sample in zip(data['inputs'], data['data_samples'], strict=True):
        image[0], image[1:] = 200, 20
        image[1, :, 24:] = 220
        sample.gt_sem_seg.data.zero_()
        sample.gt_sem_seg.data[..., 24:] = 2
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    seen = []
    for _ in range(20):
        optimizer.zero_grad()
        ready = model.data_preprocessor(data, training=True)
        loss = sum(value for key, value in model.loss(**ready).items() if 'loss' in key)
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.5 * seen[0], seen


@pytest.mark.slow
def test_real_samples_train_and_validate(shared_data, tmp_path):
    folder = str(shared_data / 'ade20k_sample')
    changes = {f'{split}_dataloader.dataset.data_root': folder for split in ('train', 'val', 'test')}
    for split, step in (('train', 2), ('val', 1), ('test', 1)):
        changes[f'{split}_dataloader.dataset.pipeline.{step}.scale'] = (96, 64)
    changes |= {**SMALLER, 'model.backbone.arch.num_layers': 4, 'model.backbone.arch.num_heads': 2}
    changes['model.decode_head.channels'] = 16  # two in each of eight groups
    changes |= {'train_cfg.max_iters': 2, 'train_cfg.val_interval': 2}
    run = runner(tmp_path / 'real', changes, 'upernet_vit_ade20k-sample')
    run.train()
    assert len(run.val_dataloader.dataset) == 3
    table = next((tmp_path / 'real').rglob('*.log')).read_text()
    rows = [line.split('|')[1:4] for line in table.splitlines() if line.startswith('|')]
    scores = {name.strip(): float(iou) for name, iou, _ in rows if name.strip() != 'Class'}
    assert len(scores) == 150
    present = [score for score in scores.values() if not np.isnan(score)]
    # Classes that nobody labels or predicts are left out of the mean.
    assert len(present) < 150
    assert run.message_hub.get_scalar('val/mIoU').current() == pytest.approx(np.mean(present), abs=0.01)
