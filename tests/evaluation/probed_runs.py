"""Runs on the digits that take milliseconds a step, with and without the online probe."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from builders import config
from engine.toy_engine import toy_config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import Dataset

STEPS = 4  # in an epoch


def model_config(neck: dict | None) -> dict:
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
    squares = dict(type='SquarePartition', hierarchy=(16, 4))
    # Drop path betrays a wrong mode.
    cfg = config(squares, neck, (4, 4), arch=arch, patch=2, channels=1, drop_path_rate=0.5)
    cfg['data_preprocessor'].update(mean=[77.9], std=[95.9])
    return cfg


RANDSAC = model_config(dict(num_layers=1, embed_dims=16, num_heads=2, skip=True))
TWO_STREAM = model_config(None)
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


def run_config(folder: Path, *hooks: dict | Hook, model: dict = RANDSAC, epochs: int = 2, **wrapper: object) -> dict:
    """Make a run of ``epochs``, 4 steps in each; ``wrapper``: options of the optimiser wrapper."""
    digits = dict(type='Digits', split='test')
    run = toy_config(folder, epochs=epochs, seed=3)
    run.update(model=model, default_scope='mmpretrain', param_scheduler=None, custom_hooks=list(hooks))
    run['train_dataloader'].update(batch_size=90, dataset=digits, collate_fn=dict(type='default_collate'))
    run['optim_wrapper'] = dict(optimizer=dict(type='AdamW', lr=3e-3), **wrapper)
    run['default_hooks'].update(
        runtime_info=dict(type='DeferredRuntimeInfoHook'),
        where_time_goes=dict(type='WhereTimeGoesHook'),
        logger=dict(type='LoggerHook', interval=1),
    )
    return run


def train(folder: Path, *hooks: dict | Hook, **options: object) -> Runner:
    """Run :func:`run_config` to its end."""
    runner = Runner(**run_config(folder, *hooks, **options))
    runner.train()
    return runner


def log(runner: Runner, key: str = 'probe/knn') -> list[dict]:
    """Read the entries with a key from the run's ``scalars.json``."""
    lines = Path(runner.log_dir, 'vis_data', 'scalars.json').read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if key in entry]
