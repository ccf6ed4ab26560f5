"""Contract: another number of epochs keeps the form of the schedule, or is refused."""

from pathlib import Path

import pytest
from mmengine.config import Config

from randsac_mm.engine.schedule import set_epochs

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
OURS = sorted(path for folder in ('randsac', 'linear_probe', 'finetune') for path in (CONFIGS / folder).glob('*.py'))


def schedule(cfg: Config) -> tuple:
    warm, decay = cfg.param_scheduler
    return warm.begin, warm.end, decay.begin, decay.end, decay.T_max, cfg.train_cfg.max_epochs


@pytest.mark.slow
@pytest.mark.parametrize('path', OURS, ids=lambda path: path.stem)
def test_every_config_can_be_run_for_another_number_of_epochs(path: Path) -> None:
    cfg = Config.fromfile(path)
    whole = schedule(cfg)
    set_epochs(cfg, whole[-1])
    assert schedule(cfg) == whole
    set_epochs(cfg, 2)
    assert schedule(cfg) == (0, 1, 1, 2, 1, 2)


@pytest.mark.parametrize(('epochs', 'warmup'), [(400, 20), (200, 10), (50, 2), (2, 1), (1600, 40)])
def test_warm_up_keeps_its_share_and_never_grows(epochs: int, warmup: int) -> None:
    cfg = Config.fromfile(CONFIGS / 'randsac' / 'vit-s_in100.py')  # 40 of 800
    set_epochs(cfg, epochs)
    assert schedule(cfg) == (0, warmup, warmup, epochs, epochs - warmup, epochs)
    assert (cfg.max_epochs, cfg.warmup_epochs) == (epochs, warmup)


def test_without_warm_up() -> None:
    decay = dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=7, T_max=7)
    for scheduler in (decay, [decay]):
        cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=7), param_scheduler=scheduler))
        set_epochs(cfg, 1)
        (entry,) = [cfg.param_scheduler] if isinstance(scheduler, dict) else cfg.param_scheduler
        assert (entry.end, entry.T_max, cfg.train_cfg.max_epochs) == (1, 1, 1)
    constant = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=7)))
    set_epochs(constant, 3)
    assert constant.train_cfg.max_epochs == 3


def test_too_few_epochs() -> None:
    cfg = Config.fromfile(CONFIGS / 'randsac' / 'vit-t_cifar10.py')
    before = cfg.to_dict()
    for epochs in (1, 0, -3):
        with pytest.raises(ValueError, match=f'--epochs {epochs} leaves no room for a warm-up and a decay: use 2'):
            set_epochs(cfg, epochs)
    assert cfg.to_dict() == before
    with pytest.raises(ValueError, match='--epochs 0 leaves no room for a decay: use 1 or more'):
        set_epochs(Config(dict(train_cfg=dict(max_epochs=7))), 0)


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        ('param_scheduler[1].T_max = 5', r'LinearLR \(epoch 0 to 10\), CosineAnnealingLR \(epoch 10 to 800\)'),
        ('param_scheduler[1].end = 700', r'CosineAnnealingLR \(epoch 10 to 700\)'),
        ('param_scheduler[1].begin = 0', r'CosineAnnealingLR \(epoch 0 to 800\)'),
        ('param_scheduler[0].by_epoch = False', r'LinearLR \(step 0 to 10\)'),
        ('param_scheduler[0].begin = 5', r'LinearLR \(epoch 5 to 10\)'),
        ('param_scheduler[1].type = "PolyLR"', r'PolyLR \(epoch 10 to 800\)'),
        ('param_scheduler = [*cfg.param_scheduler, dict(type="StepLR")]', r'StepLR \(epoch 0 to None\)'),
    ],
)
def test_other_forms_are_refused(change: str, found: str) -> None:
    cfg = Config.fromfile(CONFIGS / 'randsac' / 'vit-t_cifar10.py')
    exec(f'cfg.{change}')
    before = cfg.to_dict()
    with pytest.raises(ValueError, match=f'--epochs 20: param_scheduler is .*{found}.* can be changed'):
        set_epochs(cfg, 20)
    assert cfg.to_dict() == before


def test_runs_that_are_counted_in_steps_are_refused() -> None:
    cfg = Config.fromfile(CONFIGS / 'segmentation' / 'upernet_vit-b_ade20k-512.py')
    with pytest.raises(ValueError, match=r'--epochs 20: the length of this run is not counted in epochs.*IterBased'):
        set_epochs(cfg, 20)
