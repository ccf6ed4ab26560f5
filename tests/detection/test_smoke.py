"""The smoke config trains, measures boxes and masks, saves, and resumes bit for bit; so do real COCO images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from randsac_mm.engine.launch import use_resume

ROOT = Path(__file__).resolve().parents[2]
# pycocotools and numpy 2
pytestmark = pytest.mark.filterwarnings('ignore:__array__ implementation does.*copy keyword:DeprecationWarning')


class Stop(Hook):
    """Interrupts a run in the middle of its second epoch."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if runner.epoch == 1 and batch_idx == 2:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_interrupted_and_resumed_run_ends_with_the_same_bits(smoke: Callable[..., Config]) -> None:
    """With random flips, drop path, batches by aspect ratio, and pictures that show nothing."""
    whole = Runner.from_cfg(smoke('whole'))
    start = {key: value.clone() for key, value in whole.model.state_dict().items()}
    trained = whole.train().state_dict()
    changed = [key for key, value in trained.items() if not torch.equal(value, start[key])]
    assert any(key.startswith('backbone.layers.0.') for key in changed)
    assert any(key.startswith('roi_head.mask_head.') for key in changed)
    scalars = whole.message_hub.log_scalars
    for task in ('bbox', 'segm'):
        assert 0 <= scalars[f'val/coco/{task}_mAP'].current() <= 1, 'both are measured, however small'

    stopped = Runner.from_cfg(smoke('parts'))
    stopped.register_hook(Stop())
    with pytest.raises(KeyboardInterrupt):
        stopped.train()
    assert [path.name for path in Path(stopped.work_dir).glob('*.pth')] == ['epoch_1.pth']
    cfg = smoke('parts')
    cfg.experiment_name += '_resumed'
    use_resume(cfg, 'latest')
    resumed = Runner.from_cfg(cfg).train().state_dict()
    assert all(torch.equal(value, resumed[key]) for key, value in trained.items())


def test_measuring_a_model_that_finds_nothing(smoke: Callable[..., Config]) -> None:
    cfg = smoke()
    cfg.model.test_cfg.rcnn.score_thr = 1.1
    metrics = Runner.from_cfg(cfg).val()
    assert metrics == {}, 'mmdet reports no metric, and goes on'


def tinycoco(folder: Path, tmp_path: Path) -> Config:
    """The overfit config, narrow, on two small images for two steps."""
    cfg = Config.fromfile(ROOT / 'configs' / 'smoke' / 'mask-rcnn_vit_tinycoco.py')
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    cfg.model.backbone.arch.num_layers = 4
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    cfg.param_scheduler = []
    cfg.default_hooks.checkpoint.interval = 2
    cfg.model.test_cfg.rcnn.max_per_img = 10
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(folder)
        loader.dataset.indices = loader.dataset.indices[:2]
        step = next(step for step in loader.dataset.pipeline if step.type == 'Resize')
        step.scale = (96, 96)
    return cfg


@pytest.mark.slow
def test_real_images_train_and_are_measured(shared_data: Path, tmp_path: Path) -> None:
    runner = Runner.from_cfg(tinycoco(shared_data / 'tinycoco', tmp_path))
    runner.train()
    assert (tmp_path / 'iter_2.pth').is_file()
    assert 'val/coco/segm_mAP' in runner.message_hub.log_scalars
    metric = runner.val_evaluator.metrics[0]
    assert len(metric.img_ids) == 2, 'measured on the images that were trained on, and on no others'


def test_overfit_config_takes_the_images_that_its_rule_names(shared_data: Path) -> None:
    cfg = Config.fromfile(ROOT / 'configs' / 'smoke' / 'mask-rcnn_vit_tinycoco.py')

    def names(indices: list[int] | None, **options: object) -> list[str]:
        dataset = CocoDataset(
            data_root=str(shared_data / 'tinycoco'),
            ann_file=cfg.train_dataloader.dataset.ann_file,
            data_prefix=cfg.train_dataloader.dataset.data_prefix,
            indices=indices,
            pipeline=[],
            **options,
        )
        return [Path(dataset.get_data_info(i)['img_path']).name for i in range(len(dataset))]

    expected = sorted(names(None, filter_cfg=dict(filter_empty_gt=True)))[:8]
    assert names(cfg.train_dataloader.dataset.indices) == expected
    assert names(cfg.val_dataloader.dataset.indices, test_mode=True) == expected
