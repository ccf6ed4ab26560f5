"""Contract: another number of epochs keeps the form of the schedule, or is refused."""

from pathlib import Path

import pytest
from mmengine.config import Config

from randsac_mm.engine.schedule import set_epochs

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
OURS = sorted(path for folder in ('randsac', 'linear_probe', 'finetune') for path in (CONFIGS / folder).glob('*.py'))


def config(warmup=10):
    warm = dict(type='LinearLR', by_epoch=True, begin=0, end=warmup, convert_to_iter_based=True)
    decay = dict(type='CosineAnnealingLR', by_epoch=True, begin=warmup, end=800, T_max=800 - warmup)
    return Config(dict(max_epochs=800, train_cfg=dict(max_epochs=800), param_scheduler=[warm, decay]))


def schedule(cfg: Config) -> tuple:
    warm, decay = cfg.param_scheduler
    return warm.begin, warm.end, decay.begin, decay.end, decay.T_max, cfg.train_cfg.max_epochs


@pytest.mark.slow
@pytest.mark.parametrize('path', OURS, ids=lambda path: path.stem)
def test_every_config_can_be_run_for_another_number_of_epochs(path: Path) -> None:
    cfg = Config.fromfile(path)
    if 'max_iters' in cfg.train_cfg:
        with pytest.raises(ValueError, match=r'--epochs 2: .*max_iters.* counts no epochs'):
            set_epochs(cfg, 2)
        return
    whole = schedule(cfg)
    set_epochs(cfg, whole[-1])
    assert schedule(cfg) == whole
    set_epochs(cfg, 2)
    assert schedule(cfg) == (0, 1, 1, 2, 1, 2)
    assert (cfg.max_epochs, cfg.warmup_epochs) == (2, 1)


@pytest.mark.parametrize(('epochs', 'warmup'), [(400, 20), (200, 10), (50, 2), (2, 1), (1600, 40)])
def test_warm_up_keeps_its_share_and_never_grows(epochs: int, warmup: int) -> None:
    cfg = config(warmup=40)
    set_epochs(cfg, epochs)
    assert schedule(cfg) == (0, warmup, warmup, epochs, epochs - warmup, epochs)


@pytest.mark.parametrize('form', [lambda decay: decay, lambda decay: [decay], lambda decay: None])
def test_without_warm_up(form) -> None:
    scheduler = form(dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=7, T_max=7))
    cfg = Config(dict(train_cfg=dict(by_epoch=True, max_epochs=7), param_scheduler=scheduler))
    set_epochs(cfg, 1)
    decay = cfg.param_scheduler[0] if isinstance(scheduler, list) else cfg.param_scheduler
    assert decay is None or (decay.end, decay.T_max) == (1, 1)
    assert cfg.train_cfg.max_epochs == 1
    with pytest.raises(ValueError, match='--epochs 0'):
        set_epochs(cfg, 0)


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        ('param_scheduler[1].T_max = 5', r'LinearLR \(epoch 0 to 10\), CosineAnnealingLR \(epoch 10 to 800\)'),
        ('param_scheduler[1].end = 700', r'CosineAnnealingLR \(epoch 10 to 700\)'),
        ('param_scheduler[0].by_epoch = False', r'LinearLR \(step 0 to 10\)'),
        ('param_scheduler[1].type = "PolyLR"', r'PolyLR \(epoch 10 to 800\)'),
        ('param_scheduler = [*cfg.param_scheduler, dict(type="StepLR")]', r'StepLR \(epoch 0 to None\)'),
        ('train_cfg = dict(type="IterBasedTrainLoop", max_iters=7)', 'IterBasedTrainLoop'),
    ],
)
def test_other_forms_are_refused(change: str, found: str) -> None:
    cfg = config()
    exec(f'cfg.{change}')
    before = cfg.to_dict()
    with pytest.raises(ValueError, match=f'--epochs 20.*{found}'):
        set_epochs(cfg, 20)
    assert cfg.to_dict() == before


@pytest.mark.parametrize('epochs', [1, -3])
def test_too_few_epochs_for_a_warm_up_are_refused(epochs: int) -> None:
    with pytest.raises(ValueError, match=f'--epochs {epochs} .* use 2'):
        set_epochs(config(), epochs)
