"""Contract: every smoke config trains, measures, saves, and resumes with the bits of an uninterrupted run.

Two processes train those of segmentation and detection, some of whose images show nothing: without a gradient for every
parameter in every process, they would wait for each other for ever.
"""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from engine.toy_engine import Interrupt, Interrupted
from mmengine.runner import Runner
from processes import ROOT, run

from randsac_mm.engine.launch import build_runner, load_config
from randsac_mm.engine.work_dir import use_resume

SMOKE = ROOT / 'configs' / 'smoke'
pytestmark = pytest.mark.slow


class Smoke(NamedTuple):
    iterations: int
    checkpoints: tuple[str, ...]
    changes: dict  # to the config
    metric: str | None = None


DIGITS = Smoke(10, ('epoch_1.pth', 'epoch_2.pth'), {})
UPERNET = {
    'train_cfg.max_iters': 4,
    'train_cfg.val_interval': 2,
    'param_scheduler.0.end': 2,
    'param_scheduler.1.begin': 2,
    'param_scheduler.1.end': 4,
    'default_hooks.checkpoint.interval': 2,
}
MASK_RCNN = {
    'model.test_cfg.rcnn.max_per_img': 10,
    'train_dataloader.dataset.pipeline.2.scale': (80, 80),
    'val_dataloader.dataset.pipeline.1.scale': (80, 80),
    'test_dataloader.dataset.pipeline.1.scale': (80, 80),
}
PHOTOS = {
    'train_dataloader.batch_size': 4,
    'train_dataloader.dataset.times': 2,
    'train_cfg.max_epochs': 2,
    'param_scheduler': None,
}
RUNS = {
    'randsac_vit_digits': DIGITS,
    'randsac_vit_blob_digits': DIGITS,
    'randsac_vit_raster_digits': DIGITS,
    'randsac_vit_probed_digits': DIGITS,
    'two-stream_vit_digits': DIGITS,
    'randsac_vit_photos': Smoke(8, DIGITS.checkpoints, PHOTOS),
    'upernet_vit_shapes': Smoke(4, ('iter_2.pth', 'iter_4.pth'), UPERNET, 'mIoU'),
    'mask-rcnn_vit_shapes': Smoke(8, DIGITS.checkpoints, MASK_RCNN, 'coco/segm_mAP'),
}
RESUMED = ['randsac_vit_digits', 'randsac_vit_blob_digits', 'upernet_vit_shapes', 'mask-rcnn_vit_shapes']
MEASURED = [name for name, smoke in RUNS.items() if smoke.metric]


def changes_of(name: str, shapes: Path) -> dict:
    """Return the changes to a smoke config, its data among them."""
    changes = dict(RUNS[name].changes)
    if name == 'randsac_vit_photos':
        changes['train_dataloader.dataset.dataset.data_root'] = str(shapes / 'coco' / 'train2017')
    if name in MEASURED:
        folder = shapes / ('ade20k' if name.startswith('upernet') else 'coco')
        changes |= {f'{split}_dataloader.dataset.data_root': str(folder) for split in ('train', 'val', 'test')}
    if name.startswith('mask-rcnn'):
        annotations = str(folder / 'annotations' / 'instances_val2017.json')
        changes |= {f'{split}_evaluator.ann_file': annotations for split in ('val', 'test')}
    return changes


def build(name: str, shapes: Path, work_dir: Path, resume: bool = False) -> Runner:
    cfg = load_config(str(SMOKE / f'{name}.py'), changes_of(name, shapes), str(work_dir), 'none')
    # mmengine allows one of a name
    cfg.experiment_name = cfg.visualizer.name = f'{work_dir}_{resume}'.replace('/', '_')
    if resume:
        use_resume(cfg, 'latest')
    return build_runner(cfg)


class Whole(NamedTuple):
    name: str
    runner: Runner
    before: dict[str, torch.Tensor]


@pytest.fixture(scope='module')
def whole(request: pytest.FixtureRequest, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    runner = build(request.param, shapes, tmp_path_factory.mktemp('whole') / request.param)
    before = {key: value.clone() for key, value in runner.model.named_parameters() if value.requires_grad}
    runner.train()
    return Whole(request.param, runner, before)


@pytest.mark.parametrize('whole', RUNS, indirect=True)
def test_trains_measures_and_saves(whole: Whole) -> None:
    name, runner, before = whole
    smoke = RUNS[name]
    assert runner.iter == smoke.iterations
    after = dict(runner.model.named_parameters())
    assert all(torch.isfinite(value).all() for value in after.values())
    changed = {key.split('.')[0] for key, value in before.items() if not torch.equal(value, after[key])}
    assert changed == {key.split('.')[0] for key in before}, 'every part of the model learns'
    assert sorted(path.name for path in Path(runner.work_dir).glob('*.pth')) == list(smoke.checkpoints)
    if smoke.metric:
        assert 0 <= runner.message_hub.get_scalar(f'val/{smoke.metric}').current() <= 100


def test_a_detector_that_finds_nothing_is_measured(shapes: Path, tmp_path: Path) -> None:
    runner = build('mask-rcnn_vit_shapes', shapes, tmp_path)
    runner.model.roi_head.test_cfg.score_thr = 1.1
    assert runner.val() == {}, 'mmdet reports no metric, and goes on'


@pytest.mark.parametrize('whole', RESUMED, indirect=True)
def test_interrupted_and_resumed_run_ends_with_the_same_bits(whole: Whole, shapes: Path, tmp_path: Path) -> None:
    """With random flips, drop path, batches by aspect ratio, and pictures that show nothing."""
    smoke = RUNS[whole.name]
    stopped = build(whole.name, shapes, tmp_path)
    stopped.register_hook(Interrupt(smoke.iterations * 3 // 4))
    with pytest.raises(Interrupted):
        stopped.train()
    assert [path.name for path in tmp_path.glob('*.pth')] == [smoke.checkpoints[0]]
    resumed = build(whole.name, shapes, tmp_path, resume=True)
    resumed.train()
    state = resumed.model.state_dict()
    for key, value in whole.runner.model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('whole', MEASURED, indirect=True)
def test_the_test_script_measures_what_training_measured(whole: Whole, shapes: Path, tmp_path: Path, run_tool) -> None:
    smoke = RUNS[whole.name]
    names = dict.fromkeys(('experiment_name', 'visualizer.name'), f'test_{whole.name}')
    changes = [f'{key}={value}' for key, value in {**changes_of(whole.name, shapes), **names}.items()]
    checkpoint = Path(whole.runner.work_dir) / smoke.checkpoints[-1]
    arguments = [SMOKE / f'{whole.name}.py', checkpoint, '--out', tmp_path / 'metrics.json', '--work-dir', tmp_path]
    run_tool('test.py', *arguments, '--cfg-options', *changes)
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    measured = whole.runner.message_hub.get_scalar(f'val/{smoke.metric}').current()
    assert metrics[smoke.metric] == pytest.approx(measured)


@pytest.mark.parametrize('name', MEASURED)
def test_two_processes_train_measure_and_save(name: str, shapes: Path, tmp_path: Path) -> None:
    smoke = RUNS[name]
    changes = {**changes_of(name, shapes), 'train_dataloader.batch_size': 2}
    changes = [f'{key}={value}' for key, value in changes.items()]
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', SMOKE / f'{name}.py', 2]
    log = run(*command, '--work-dir', tmp_path, '--cfg-options', *changes)
    assert smoke.metric.split('/')[-1] in log
    checkpoint = torch.load(tmp_path / smoke.checkpoints[-1], weights_only=True)
    assert len(checkpoint['meta']['random_states']) == 2
    assert not any(key.startswith('module.') for key in checkpoint['state_dict'])
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())
