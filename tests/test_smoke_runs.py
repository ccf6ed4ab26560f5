"""Contract: every smoke config trains, measures, saves, and resumes with the bits of an uninterrupted run.

Two processes train those of segmentation and detection, some of whose images show nothing: without a gradient for every
parameter in every process, they would wait for each other for ever.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from randsac_mm.engine.launch import build_runner, load_config, use_resume
from tools.make_shapes import make_shapes

ROOT = Path(__file__).resolve().parents[1]
SMOKE = ROOT / 'configs' / 'smoke'
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg'),
    pytest.mark.filterwarnings('ignore:The draw is False:UserWarning:mmseg'),
    pytest.mark.filterwarnings('ignore:__array__ implementation does.*copy keyword:DeprecationWarning'),  # pycocotools
]


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


class Stop(Hook):
    """Interrupts a run in the middle of its second half."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated pictures in ADE20K's and COCO's formats."""
    return make_shapes(tmp_path_factory.mktemp('data') / 'shapes', size=(64, 80))


def run(*command: object) -> str:
    """Run a command as users do; return what it writes."""
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        'PORT': str(20000 + os.getpid() % 10000),
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
    }
    command = [str(part) for part in command]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr


def data_options(name: str, shapes: Path) -> dict:
    if name == 'randsac_vit_photos':
        return {'train_dataloader.dataset.dataset.data_root': str(shapes / 'coco' / 'train2017')}
    if name not in MEASURED:
        return {}
    folder = shapes / ('ade20k' if name.startswith('upernet') else 'coco')
    options = {f'{split}_dataloader.dataset.data_root': str(folder) for split in ('train', 'val', 'test')}
    if name.startswith('mask-rcnn'):
        annotations = str(folder / 'annotations' / 'instances_val2017.json')
        options |= {'val_evaluator.ann_file': annotations, 'test_evaluator.ann_file': annotations}
    return options


def build(name: str, shapes: Path, work_dir: Path, resume: bool = False) -> Runner:
    changes = {**RUNS[name].changes, **data_options(name, shapes)}
    cfg = load_config(str(SMOKE / f'{name}.py'), changes, str(work_dir), 'none')
    cfg.experiment_name = cfg.visualizer.name = f'{work_dir}_{resume}'.replace(
        '/', '_'
    )  # mmengine allows one of a name
    if resume:
        use_resume(cfg, 'latest')
    return build_runner(cfg)


def train(runner: Runner) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('time.sleep', lambda seconds: None)  # mmengine waits 2 s between passes through the data
        runner.train()


class Whole(NamedTuple):
    """An uninterrupted run."""

    name: str
    runner: Runner
    before: dict[str, torch.Tensor]


@pytest.fixture(scope='module')
def whole(request: pytest.FixtureRequest, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    runner = build(request.param, shapes, tmp_path_factory.mktemp('whole') / request.param)
    before = {key: value.clone() for key, value in runner.model.named_parameters() if value.requires_grad}
    train(runner)
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


@pytest.mark.parametrize('whole', RESUMED, indirect=True)
def test_interrupted_and_resumed_run_ends_with_the_same_bits(whole: Whole, shapes: Path, tmp_path: Path) -> None:
    """With random flips, drop path, batches by aspect ratio, and pictures that show nothing."""
    smoke = RUNS[whole.name]
    stopped = build(whole.name, shapes, tmp_path)
    stopped.register_hook(Stop(smoke.iterations * 3 // 4))
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    assert [path.name for path in tmp_path.glob('*.pth')] == [smoke.checkpoints[0]]
    resumed = build(whole.name, shapes, tmp_path, resume=True)
    train(resumed)
    state = resumed.model.state_dict()
    for key, value in whole.runner.model.state_dict().items():
        assert torch.equal(value, state[key]), key


@pytest.mark.parametrize('whole', MEASURED, indirect=True)
def test_the_test_script_measures_what_training_measured(whole: Whole, shapes: Path, tmp_path: Path) -> None:
    smoke = RUNS[whole.name]
    changes = {**smoke.changes, **data_options(whole.name, shapes)}
    changes = [f'{key}={value}' for key, value in changes.items()]
    checkpoint = Path(whole.runner.work_dir) / smoke.checkpoints[-1]
    arguments = [SMOKE / f'{whole.name}.py', checkpoint, '--out', tmp_path / 'metrics.json', '--work-dir', tmp_path]
    run(sys.executable, ROOT / 'tools' / 'test.py', *arguments, '--cfg-options', *changes)
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    measured = whole.runner.message_hub.get_scalar(f'val/{smoke.metric}').current()
    assert metrics[smoke.metric] == pytest.approx(measured)


@pytest.mark.parametrize('name', MEASURED)
def test_two_processes_train_measure_and_save(name: str, shapes: Path, tmp_path: Path) -> None:
    smoke = RUNS[name]
    changes = {**smoke.changes, **data_options(name, shapes), 'train_dataloader.batch_size': 2}
    changes = [f'{key}={value}' for key, value in changes.items()]
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', SMOKE / f'{name}.py', 2]
    log = run(*command, '--work-dir', tmp_path, '--cfg-options', *changes)
    assert smoke.metric.split('/')[-1] in log
    checkpoint = torch.load(tmp_path / smoke.checkpoints[-1], weights_only=True)
    assert len(checkpoint['meta']['random_states']) == 2
    assert not any(key.startswith('module.') for key in checkpoint['state_dict'])
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())
