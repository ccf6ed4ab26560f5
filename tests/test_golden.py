"""Golden values, recorded before the code was rewritten (commit c27f058): the numbers that no refactoring may change.

Losses of three training steps on a CPU in float32 from fixed seeds, and features of a checkpoint of that code.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmpretrain.registry import MODELS

DATA = Path(__file__).parent / 'data'
LOSSES = {  # config: images in a step
    'configs/randsac/vit_digits.py': 64,
    'configs/randsac/vit-t_cifar10.py': 8,
    'configs/randsac/vit-t_two-stream_cifar10.py': 8,
}
CHECKPOINT = DATA / 'tiny_digits.pth'
BACKBONE = dict(
    type='RandSACViT',
    arch=dict(embed_dims=12, num_layers=2, num_heads=2, feedforward_channels=24),
    img_size=8,
    patch_size=2,
    in_channels=1,
)


def training_losses(config: Path, batch_size: int) -> list[float]:
    """Train three steps on noise: model, serialization, augmentation and optimizer of a config, all from seed 0."""
    cfg = Config.fromfile(config)
    # As when the losses were recorded: the two-stream baseline had 15 layers, and skip weights were decayed.
    if 'two-stream' in config.stem:
        cfg.model.backbone.arch.num_layers = 15
    cfg.optim_wrapper.paramwise_cfg.pop('custom_keys')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.train()
    cfg.optim_wrapper.type = 'OptimWrapper'  # float32
    cfg.optim_wrapper.optimizer.lr = 1e-4  # as after some warm-up; at the full rate differences in rounding grow fast
    optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    losses = []
    for _ in range(3):
        channels, (height, width) = model.backbone.in_channels, model.backbone.img_size
        inputs = torch.randint(256, (batch_size, channels, height, width), dtype=torch.uint8)
        losses.append(model.train_step({'inputs': inputs}, optim_wrapper)['loss'].item())
    return losses


def features(checkpoint: Path) -> list[list[float]]:
    """Average tokens of the checkpoint's backbone on two fixed images: (2, D)."""
    backbone = MODELS.build({**BACKBONE, 'init_cfg': dict(type='StrictPretrained', checkpoint=str(checkpoint))})
    backbone.init_weights()
    backbone.eval()
    images = torch.linspace(-1, 1, 2 * 64).reshape(2, 1, 8, 8).sin()
    with torch.no_grad():
        return backbone(images)[-1].mean(dim=(2, 3)).tolist()


@pytest.mark.parametrize('config', LOSSES)
def test_three_training_steps_have_the_golden_losses(config: str, root: Path) -> None:
    golden = json.loads((DATA / 'golden.json').read_text())['losses'][config]
    np.testing.assert_allclose(training_losses(root / config, LOSSES[config]), golden, rtol=1e-5)


def test_an_old_checkpoint_gives_the_golden_features() -> None:
    golden = json.loads((DATA / 'golden.json').read_text())['features']
    np.testing.assert_allclose(features(CHECKPOINT), golden, rtol=1e-5, atol=1e-6)


def test_an_old_run_is_resumed_with_its_optimizer(root: Path, tmp_path: Path) -> None:
    """The old checkpoint is of epoch 1: two epochs are trained on from it, and its weights are where they begin."""
    from mmengine.runner import Runner

    cfg = Config.fromfile(DATA / 'tiny_digits.py')
    cfg.work_dir, cfg.resume, cfg.load_from = str(tmp_path), True, str(CHECKPOINT)
    runner = Runner.from_cfg(cfg)
    runner.train()
    saved = torch.load(CHECKPOINT, weights_only=True)
    assert runner.epoch == 2
    assert runner.iter == 2 * saved['meta']['iter']
    optimizer = runner.optim_wrapper.optimizer
    assert {int(state['step']) for state in optimizer.state.values()} == {runner.iter}
    # That run decayed its skip weights and goes on so, while the config no longer does.
    old = saved['optimizer']['param_groups']
    names = [name for name, param in runner.model.named_parameters() if param.requires_grad]
    decay, before = ([group['weight_decay'] for group in groups] for groups in (optimizer.param_groups, old))
    assert decay == before
    assert decay[names.index('neck.skip.weight')] == 0.05
