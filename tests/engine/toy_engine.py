"""A model that trains in milliseconds and draws from every random generator, so that a repeated run is recognised."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODEL_WRAPPERS, MODELS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from randsac_mm.datasets.images import UnreadableImageError

_number = itertools.count()


class Interrupted(Exception):
    """Stands for the kill of a job."""


@DATASETS.register_module()
class ToyData(Dataset):
    """Vectors of 3 numbers, each disturbed by Python's, numpy's and torch's generator."""

    metainfo = {'classes': ('a', 'b'), 'palette': np.array([[1, 2, 3]])}  # noqa: RUF012

    def __init__(self, size=13, damaged=None):
        self.size, self.damaged = size, damaged

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index == self.damaged:
            raise UnreadableImageError(f'photo {index}.png: image file is truncated')
        noise = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        return {'inputs': noise + index}


@MODELS.register_module()
class ToyModel(BaseModel):
    """A linear layer with dropout and noise on the input."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.drop = torch.nn.Dropout(0.5)

    def forward(self, inputs, mode='tensor'):
        inputs = torch.stack(list(inputs))
        if mode == 'loss':
            return {'loss': self.drop(self.layer(inputs + torch.randn_like(inputs))).square().mean()}
        return [self.layer(inputs).sum() + torch.rand(())]


@MODEL_WRAPPERS.register_module()
class Wrapper(torch.nn.Module):
    """Stands for DistributedDataParallel."""

    def __init__(self, module):
        super().__init__()
        self.module = module


@METRICS.register_module()
class ToyScores(BaseMetric):
    """Returns another score in each validation, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.scores = iter((0.5, 0.7, 0.6, 0.9))

    def process(self, data_batch, data_samples):
        self.results.append(np.random.rand())

    def compute_metrics(self, results):
        return {'acc': np.float64(next(self.scores))}


@HOOKS.register_module()
class Interrupt(Hook):
    """Raises before iteration ``iteration``, counted from 0, as if the job were killed there."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if self.iteration is not None and runner.iter == self.iteration:
            raise Interrupted


def toy_config(
    work_dir,
    *,
    iters=None,
    epochs=None,
    workers=0,
    sampler='DefaultSampler',
    val=False,
    seed=5,
    seeded=False,
    **checkpoint,
):
    """Make the config of a toy run; batches of 4, so that the 13 samples make 4 batches."""
    by_epoch, length = epochs is not None, epochs or iters
    loop = {'by_epoch': True, 'max_epochs': epochs} if by_epoch else {'by_epoch': False, 'max_iters': iters}
    schedule = {'type': 'CosineAnnealingLR', 'by_epoch': by_epoch, 'T_max': length, 'end': length}
    hook = {'type': 'ResumableCheckpointHook', 'interval': 1, 'by_epoch': by_epoch, **checkpoint}
    config = {
        'model': {'type': 'ToyModel'},
        'work_dir': str(work_dir),
        'train_dataloader': {
            'dataset': {'type': 'ToyData'},
            'sampler': {'type': sampler, 'shuffle': True},
            'batch_size': 4,
            'num_workers': workers,
            'worker_init_fn': {'type': 'seed_worker'},
        },
        'train_cfg': loop if by_epoch else {**loop, 'val_interval': 4},
        'optim_wrapper': {'type': 'OptimWrapper', 'optimizer': {'type': 'AdamW', 'lr': 0.1}},
        'param_scheduler': [{**schedule, 'convert_to_iter_based': True} if by_epoch else schedule],
        'default_hooks': {'checkpoint': hook},
        'randomness': {'seed': seed},
        'default_scope': 'mmengine',
        'log_level': 'WARNING',
        'experiment_name': f'toy{next(_number)}',
    }
    if seeded:
        config['default_hooks']['sample_seeds'] = {'type': 'SampleSeedHook'}
    if val:
        config.update(
            val_dataloader={'dataset': {'type': 'ToyData'}, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
            val_cfg={},
            val_evaluator={'type': 'ToyScores'},
        )
    return config


def train(work_dir, *, stop=None, resume=None, longer=0, kind=Runner, **options):
    """Run the toy config, possibly interrupted before iteration ``stop``, or ``longer`` than its schedule."""
    config = toy_config(work_dir, **options)
    if longer:
        config['train_cfg']['max_epochs'] += longer
    if kind is not Runner:
        config['strategy'] = {'type': 'SingleDeviceStrategy'}
    if stop is not None:
        config['custom_hooks'] = [{'type': 'Interrupt', 'iteration': stop}]
    if resume is not None:
        config.update(resume=True, load_from=str(resume))
    runner = kind(**config)
    try:
        runner.train()
    except Interrupted:
        assert stop is not None
    return runner


def log_entries(runner):
    """Read the lines of the JSON log."""
    path = next(Path(runner.log_dir).glob('vis_data/[0-9]*.json'))
    return [json.loads(line) for line in path.read_text().splitlines()]


def last_checkpoint(work_dir):
    """Read where ``last_checkpoint`` points to."""
    return Path(Path(work_dir, 'last_checkpoint').read_text())


def trained_state(runner):
    """Collect what must be equal after the same training: weights, gradients, optimiser, the next random numbers."""
    tensors = dict(runner.model.state_dict())
    tensors.update({f'{name}.grad': p.grad for name, p in runner.model.named_parameters() if p.grad is not None})
    for index, state in runner.optim_wrapper.state_dict()['state'].items():
        tensors.update({f'{index}.{key}': value for key, value in state.items()})
    tensors['random'] = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
    return tensors


def assert_same(one, two):
    """Compare the results of :func:`trained_state` bit for bit."""
    assert one.keys() == two.keys()
    different = [key for key in one if not torch.equal(one[key], two[key])]
    assert not different, f'different: {different}'
