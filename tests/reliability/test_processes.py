"""1, 2 and 4 processes with the same total batch have the same losses.

Largest differences:  python -m pytest tests/reliability/test_processes.py -s
"""

import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from mmengine.config import Config

from randsac_mm.engine.launch import build_runner

pytestmark = pytest.mark.slow

CROP = dict(type='BatchRandomResizedCrop', scale=8, crop_ratio_range=(0.4, 1.0), flip_prob=0.5)
BLOBS = dict(_delete_=True, type='BlobPartition', hierarchy=(7, 3))
PIPELINE = [dict(type='LoadImageStrict'), dict(type='RandomResizedCrop', scale=32), dict(type='PackInputs')]


def squares(cfg, folder):
    """Crops and orders of whole batches: images in memory."""
    cfg.train_dataloader.dataset = dict(type='InMemoryDataset', dataset=cfg.train_dataloader.dataset)
    cfg.train_dataloader.collate_fn = dict(type='collate_whole_batch')
    cfg.model.data_preprocessor.augment = [CROP]


def blobs(cfg, folder):
    """Segments of unequal size, so that processes predict unequal numbers of patches."""
    cfg.merge_from_dict(dict(model=dict(data_preprocessor=dict(serialization=dict(partition=BLOBS)))))


def files(cfg, folder):
    """A folder of images, cropped by worker processes."""
    cfg.train_dataloader.update(num_workers=2, batch_size=8)
    cfg.train_dataloader.dataset = dict(type='UnlabelledImageFolder', data_root=str(folder), pipeline=PIPELINE)
    cfg.model.backbone.update(img_size=32, patch_size=8, in_channels=3)
    cfg.model.data_preprocessor.update(mean=[120.0] * 3, std=[60.0] * 3)


def train(rank, world, port, cfg):
    """Train in one of several processes; the first writes the logged losses and the weights."""
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE=str(world))
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
    runner = build_runner(cfg)
    runner.train()
    if rank == 0:
        losses = torch.from_numpy(runner.message_hub.get_scalar('train/loss').data[0])
        # Matrices only: keys' biases have no gradient but rounding, of which Adam makes whole steps.
        weights = torch.cat([p.detach().flatten() for p in runner.model.parameters() if p.ndim > 1])
        torch.save((losses, weights), f'{cfg.work_dir}/result')


def run(root, tmp_path, change, folder, steps, world, seeded=True):
    cfg = Config.fromfile(root / 'configs/smoke/randsac_vit_digits.py')
    cfg.train_cfg = dict(by_epoch=False, max_iters=steps)
    cfg.train_dataloader.batch_size = 64  # as many steps in a pass, 22, for any number of processes
    cfg.model.backbone.arch = dict(embed_dims=48, num_layers=2, num_heads=4, feedforward_channels=96)
    cfg.model.neck.update(num_layers=1, embed_dims=48)
    cfg.param_scheduler = cfg.default_hooks.checkpoint = None
    cfg.default_hooks.sample_seeds.enabled = seeded
    change(cfg, folder)
    cfg.train_dataloader.batch_size //= world
    cfg.work_dir, cfg.launcher = str(tmp_path / f'{world}{seeded}'), 'pytorch' if world > 1 else 'none'
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    # Forked: nothing is imported anew.
    mp.start_processes(train, (world, port, cfg), nprocs=world, start_method='fork')
    return torch.load(f'{cfg.work_dir}/result')


@pytest.mark.parametrize(('change', 'worlds', 'steps'), [(squares, (2, 4), 50), (blobs, (2, 4), 50), (files, (2,), 6)])
def test_losses_do_not_depend_on_the_number_of_processes(root, tmp_path, shapes, change, worlds, steps):
    folder = next(shapes.rglob('*.jpg')).parent
    losses, weights = run(root, tmp_path, change, folder, steps, 1)
    assert len(losses) == steps
    for world in worlds:
        others, other_weights = run(root, tmp_path, change, folder, steps, world)
        loss, weight = (others - losses).abs().max().item(), (other_weights - weights).abs().max().item()
        print(f'{change.__name__}: {world} processes, {steps} steps: loss {loss:.1e}, weights {weight:.1e}')
        assert loss < 1e-6


def test_without_seeds_of_samples_they_do(root, tmp_path):
    one, two = (run(root, tmp_path, squares, None, 3, world, seeded=False)[0] for world in (1, 2))
    assert (one - two).abs().max() > 1e-3
