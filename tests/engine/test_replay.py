"""A recorded step is repeated with the same images, serialization and weights, and what went wrong is named."""

import itertools

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from randsac_mm.engine.non_finite import NonFiniteError
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


class SpoilGradients(Hook):
    """Makes the gradients of the fourth step infinite, and keeps its loss."""

    def before_train(self, runner):
        self.now = False
        runner.model.head.proj.bias.register_hook(lambda gradient: gradient / 0 if self.now else gradient)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.now = runner.iter == 3

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.now:
            self.loss = outputs['loss'].item()


def test_the_loss_is_that_of_the_training(root, tmp_path):
    cfg = digits(root, tmp_path)
    runner, spoil = Runner.from_cfg(cfg), SpoilGradients()
    runner.register_hook(spoil)
    runner.train()
    path = tmp_path / 'nan/iter_4.pth'
    lines = '\n'.join(replay(cfg, path))
    assert f'loss {spoil.loss:g};' in lines
    assert lines.count('not finite: none') == 4, 'the model itself is sound'
    batch = read_checkpoint(path)['batches'][0]
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
