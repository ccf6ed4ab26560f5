"""Real COCO images train and are measured."""

from pathlib import Path

import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.runner import Runner

ROOT = Path(__file__).resolve().parents[2]


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


@pytest.mark.slow
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
