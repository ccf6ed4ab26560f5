"""Runs on the digits that take milliseconds a step, with and without the online probe."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import Dataset

import randsac_mm  # noqa: F401  registers the types

STEPS = 4  # in an epoch
_number = itertools.count()

SIZES = dict(img_size=8, patch_size=2)
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
PREPROCESSOR = dict(type='RandSACDataPreprocessor', mean=[77.9], std=[95.9])
ORDER = dict(type='RandomSerialization', partition=dict(type='SquarePartition', hierarchy=(16, 4)))
# Drop path betrays a wrong mode.
RANDSAC = dict(
    type='RandSAC',
    backbone=dict(type='RandSACViT', arch=ARCH, in_channels=1, drop_path_rate=0.5, **SIZES),
    neck=dict(type='RandSACDecoder', num_layers=1, embed_dims=16, num_heads=2, skip=True),
    head=dict(type='RandSACHead'),
    data_preprocessor={**PREPROCESSOR, 'serialization': ORDER},
)
TWO_STREAM = {**RANDSAC, 'type': 'TwoStreamRandSAC', 'neck': None}
PROBE = dict(
    type='OnlineProbeHook',
    train=dict(type='Digits', split='train'),
    test=dict(type='Digits', split='test'),
    max_train=101,
    max_test=53,
)


class Noisy(Dataset):
    """Digits whose reading draws from every random generator, as a data set of another project might."""

    def __init__(self) -> None:
        self.labels = torch.arange(40) % 10

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, idx: int) -> dict:
        random.random(), np.random.rand(), torch.rand(3)
        return dict(inputs=torch.full((1, 8, 8), int(self.labels[idx]) * 20, dtype=torch.uint8))


class Stop(Hook):
    """Interrupts a run before an iteration, counted from 0."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        if runner.iter == self.iteration:
            raise KeyboardInterrupt


def run_config(folder: Path, *hooks: dict | Hook, model: dict = RANDSAC, epochs: int = 2, **wrapper: object) -> dict:
    """Make a run of ``epochs``, 4 steps in each; ``wrapper``: options of the optimiser wrapper."""
    return dict(
        model=model,
        work_dir=str(folder),
        experiment_name=f'probed{next(_number)}',
        default_scope='mmpretrain',
        train_dataloader=dict(
            batch_size=90,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
            dataset=dict(type='Digits', split='test'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=3e-3), **wrapper),
        default_hooks=dict(
            runtime_info=dict(type='DeferredRuntimeInfoHook'),
            where_time_goes=dict(type='WhereTimeGoesHook'),
            logger=dict(type='LoggerHook', interval=1),
            checkpoint=dict(type='ResumableCheckpointHook', interval=1),
        ),
        custom_hooks=list(hooks),
        randomness=dict(seed=3),
        log_level='WARNING',
    )


def train(folder: Path, *hooks: dict | Hook, **options: object) -> Runner:
    """Run :func:`run_config` to its end."""
    runner = Runner(**run_config(folder, *hooks, **options))
    runner.train()
    return runner


def state(runner: Runner) -> dict[str, Tensor]:
    """Collect what must be equal after the same training: weights, gradients, and the next random numbers."""
    tensors = dict(runner.model.state_dict())
    tensors.update({f'{name}.grad': p.grad for name, p in runner.model.named_parameters() if p.grad is not None})
    tensors['random'] = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
    return tensors


def log(runner: Runner, key: str = 'probe/knn') -> list[dict]:
    """Read the entries with a key from the run's ``scalars.json``."""
    lines = Path(runner.log_dir, 'vis_data', 'scalars.json').read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if key in entry]
