"""Fine-tuning of one run by the config of its data set."""

import time
from pathlib import Path
from typing import Any

from mmengine.config import Config

from randsac_mm.engine import launch
from randsac_mm.engine.schedule import set_epochs

from .protocols import Protocol
from .recipes import data_sets

_CONFIGS = {
    ('PreparedCIFAR10', False): 'finetune/finetune_vit-t_cifar10.py',
    ('PreparedCIFAR10', True): 'finetune/finetune_vit-s_cifar10.py',
    ('CIFAR100', True): 'finetune/finetune_vit-s_cifar100.py',
}


def finetune_config(pretrained: Config, checkpoint: Path, protocol: Protocol, configs: Path, work_dir: Path) -> Config:
    """Make the config of a fine-tuning from that of its pre-training.

    Args:
        pretrained: The config of the pre-training.
        checkpoint: Its last checkpoint.
        protocol: The scale.
        configs: The folder ``configs/``.
        work_dir: Where log and checkpoints go.

    Returns:
        The config: the paper's recipe, with encoder, data and seed of the pre-training.

    Raises:
        ValueError: If there is no recipe for this data set, or so few images remain that an epoch has no step.
    """
    source = data_sets(pretrained)[0]
    small = pretrained.model.backbone.arch == 'deit-small'
    name = _CONFIGS.get((source.type, small)) or _CONFIGS.get((source.type, True))
    if name is None:
        raise ValueError(f'there is no config for fine-tuning on {source.type}')
    cfg = Config.fromfile(configs / name)
    backbone, ours = cfg.model.backbone, pretrained.model.backbone
    backbone.update(arch=ours.arch, patch_size=ours.patch_size)
    backbone.init_cfg.checkpoint = str(checkpoint)
    if pretrained.model.type == 'MAE':
        backbone.method = 'mae'
    if isinstance(ours.arch, dict):
        cfg.model.head.in_channels = ours.arch['embed_dims']
    for dataset in data_sets(cfg):
        dataset.data_root = source.get('data_root')
    train = data_sets(cfg)[0]
    if protocol.images is not None:
        train.indices = protocol.images
    if protocol.test_images is not None:
        for dataset in data_sets(cfg)[1:]:
            dataset.indices = protocol.test_images
    if protocol.batch_size is not None:
        # The recipe's rule: the rate is proportional to the batch.
        cfg.optim_wrapper.optimizer.lr *= protocol.batch_size / cfg.batch_size
        cfg.batch_size = cfg.train_dataloader.batch_size = protocol.batch_size
    if protocol.images is not None and protocol.images < cfg.batch_size:
        raise ValueError(
            f'{protocol.images} training images do not fill one step of {cfg.batch_size}: use more images (--subset)'
        )
    if protocol.finetune_epochs is not None:
        set_epochs(cfg, protocol.finetune_epochs)
    cfg.train_cfg.val_interval = cfg.train_cfg.max_epochs  # once, at the end
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.parent.name}_finetune_{time.time_ns()}'
    cfg.randomness.seed = pretrained.randomness.seed
    cfg.launcher = 'none'
    launch.fit_workers(cfg, {})
    return cfg


def run_finetune(cfg: Config) -> dict[str, Any]:
    """Fine-tune and measure; an interrupted run goes on where it stopped.

    Args:
        cfg: See :func:`finetune_config`.

    Returns:
        ``accuracy`` on the test images, percent, and epochs, images, batch size.
    """
    launch.use_resume(cfg, 'auto')
    runner = launch.build_runner(cfg)
    runner.train()
    accuracy = runner.val_loop.run()['accuracy/top1']
    return {
        'accuracy': float(accuracy),
        'epochs': runner.max_epochs,
        'images': len(runner.train_dataloader.dataset),
        'batch_size': cfg.train_dataloader.batch_size,
    }
