"""Contract: a linear probe trains nothing but its classifier and agrees with the fast one; fine-tuning trains all."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from randsac_mm.datasets import Digits
from randsac_mm.engine.schedule import set_epochs
from randsac_mm.evaluation import extract_features, linear_probe_accuracy

SMOKE = Path(__file__).resolve().parents[2] / 'configs' / 'smoke'
TINY = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)


def load_config(name: str, folder: Path) -> Config:
    """Load a smoke config with a tiny encoder, and write the checkpoint of pre-training that it starts from."""
    init_default_scope('mmpretrain')
    pretraining = Config.fromfile(SMOKE / 'randsac_vit_digits.py').model
    pretraining.backbone.arch = TINY
    model = MODELS.build(pretraining)
    model.init_weights()
    torch.save({'state_dict': model.state_dict()}, folder / 'epoch_2.pth')
    cfg = Config.fromfile(SMOKE / f'{name}_vit_digits.py')
    cfg.model.backbone.arch = TINY
    cfg.model.backbone.init_cfg.checkpoint = str(folder / 'epoch_2.pth')
    cfg.model.head.in_channels = 32
    if name == 'linear_probe':
        cfg.model.backbone.frozen_stages = 2
        cfg.model.neck[1].input_features = 32
    cfg.work_dir, cfg.experiment_name, cfg.log_level = str(folder / 'run'), f'{name}_{folder.name}', 'ERROR'
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', ['linear_probe', 'finetune'])
def test_smoke_config_trains_what_it_should(name: str, tmp_path: Path) -> None:
    cfg = load_config(name, tmp_path)
    set_epochs(cfg, 2)
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    model = runner.train()
    pretrained = torch.load(tmp_path / 'epoch_2.pth', weights_only=True)['state_dict']
    for key, value in model.state_dict().items():
        frozen = key == 'backbone.pos_embed' or (name == 'linear_probe' and key.startswith('backbone.'))
        assert torch.equal(value, before[key]) == frozen, key
        if key.startswith('backbone.'):
            assert torch.equal(before[key], pretrained[key]), key
    assert 0 < runner.message_hub.get_scalar('val/accuracy/top1').current() <= 100
    assert (tmp_path / 'run' / 'epoch_2.pth').is_file()


def test_probe_reads_standardised_averages_of_the_last_layer(tmp_path: Path) -> None:
    model = MODELS.build(load_config('linear_probe', tmp_path).model)
    model.init_weights()
    model.train()
    images = Digits('train').images[:50]
    inputs = model.data_preprocessor({'inputs': images})['inputs']
    tokens = model.backbone(inputs)[-1]
    assert not tokens.requires_grad
    assert not any(module.training for layer in model.backbone.layers for module in layer.modules())
    average = tokens.flatten(2).mean(2)
    (read,) = model.extract_feat(inputs)
    torch.testing.assert_close(read, (average - average.mean(0)) / (average.var(0, correction=0) + 1e-6).sqrt())
    assert not list(model.neck.parameters())  # batch norm without affine parameters
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 32 * 10 + 10


@pytest.mark.slow
def test_slow_probe_agrees_with_the_fast_one(tmp_path: Path) -> None:
    """The slow recipe, 24 epochs of LARS on unchanged images, ends within 3 points of the minimum that L-BFGS finds."""
    cfg = load_config('linear_probe', tmp_path)
    cfg.model.data_preprocessor.augment = None
    cfg.train_dataloader.batch_size, cfg.train_cfg.val_interval = 64, 1000
    cfg.default_hooks.checkpoint.interval = 1000
    cfg.optim_wrapper.optimizer.lr = 15.0
    set_epochs(cfg, 24)
    model = Runner.from_cfg(cfg).train()
    model.eval()
    train, test = Digits('train'), Digits('test')

    inputs = [model.data_preprocessor({'inputs': digits.images})['inputs'] for digits in (train, test)]
    seen, unseen = (extract_features(model.backbone, part) for part in inputs)
    fast = linear_probe_accuracy(seen, train.labels, unseen, test.labels)
    with torch.no_grad():
        slow = 100 * (model(inputs[1]).argmax(1) == test.labels).double().mean().item()
    assert fast > 70
    assert abs(slow - fast) < 3
