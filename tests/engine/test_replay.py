"""A recorded step is repeated with the same images, serialization and weights, and what went wrong is named."""

import itertools

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from randsac_mm.engine.non_finite import NonFiniteError, SkipNonFiniteHook, record_step
from randsac_mm.engine.replay import replay
from randsac_mm.transfer.reading import read_checkpoint

_number = itertools.count()


def digits(root, folder):
    cfg = Config.fromfile(root / 'configs/smoke/randsac_vit_digits.py')
    cfg.work_dir, cfg.experiment_name = str(folder), f'replay{next(_number)}'
    cfg.default_hooks.update(checkpoint=None)
    cfg.train_cfg = {'by_epoch': False, 'max_iters': 5}
    cfg.log_processor, cfg.param_scheduler = {'by_epoch': False}, None
    return cfg


class Record(Hook):
    """Records the fourth step, as if it had not been finite, and its loss."""

    priority = 'HIGHEST'

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 3:
            skip = next(hook for hook in runner.hooks if isinstance(hook, SkipNonFiniteHook))
            skip.before_train_iter(runner, batch_idx, data_batch)
            self.path = record_step(runner, type('Step', (), {'number': 4, 'batches': skip._batches}))
            skip._batches = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter == 3:
            self.loss = outputs['loss'].item()


def test_the_loss_is_that_of_the_training(root, tmp_path):
    cfg = digits(root, tmp_path)
    runner, record = Runner.from_cfg(cfg), Record()
    runner.register_hook(record)
    runner.train()
    lines = '\n'.join(replay(cfg, record.path))
    assert f'loss {record.loss:g};' in lines
    assert lines.count('not finite: none') == 4
    batch = read_checkpoint(record.path)['batches'][0]
    assert batch['rank'].shape[0] == len(batch['inputs']) == cfg.train_dataloader.batch_size


def test_what_is_not_finite_is_named(root, tmp_path):
    cfg = digits(root, tmp_path)
    runner = Runner.from_cfg(cfg)

    class Spoil(Hook):
        def before_train(self, runner):
            torch.nn.init.constant_(runner.model.head.proj.bias, 1e30)

    runner.register_hook(Spoil())
    with pytest.raises(NonFiniteError):
        runner.train()
    assert sorted(path.name for path in tmp_path.glob('nan/*')) == ['iter_1.pth', 'iter_2.pth', 'iter_3.pth']
    lines = replay(cfg, tmp_path / 'nan/iter_1.pth')
    assert 'weights not finite: none' in lines[3]
    assert 'loss inf' in lines[4]
    with pytest.raises(ValueError, match='no record of a step'):
        replay(cfg, root / 'tests/data/tiny_digits.pth')
