"""From the command line to a runner: what is understood, and what is refused in one line."""

from pathlib import Path

import pytest
import torch
from engine.toy_engine import toy_config, train
from mmengine.config import Config
from mmengine.runner import FlexibleRunner

from randsac_mm.engine import launch

STRATEGIES = Path(__file__).parents[2] / 'configs' / '_base_' / 'strategies'


@pytest.fixture
def config_file(tmp_path):
    config = toy_config(tmp_path, epochs=2)
    del config['work_dir'], config['experiment_name']
    Config(config).dump(tmp_path / 'toy.py')
    return str(tmp_path / 'toy.py')


def load(path, work_dir=None, **options):
    return launch.load_config(path, options, work_dir, 'none')


def test_options_change_the_config(config_file):
    assert load(config_file).work_dir == str(Path('work_dirs', 'toy'))
    cfg = load(config_file, 'elsewhere', **{'optim_wrapper.clip_grad.max_norm': 1.0, 'load_from': 'weights.pth'})
    assert (cfg.work_dir, cfg.optim_wrapper.clip_grad.max_norm, cfg.load_from) == ('elsewhere', 1.0, 'weights.pth')


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'optim_wraper.optimizer.lr': 3.0}, 'did you mean optim_wrapper'),
        ({'qqq': 1}, 'no qqq; it has default_hooks, '),
        ({'param_scheduler.7.end': 3}, '--cfg-options'),
    ],
)
def test_mistakes_in_options_are_refused(config_file, options, message):
    with pytest.raises(ValueError, match=message):
        load(config_file, **options)


def test_variables_of_a_file_are_no_options(config_file):
    """They have been used when the file was read, so that another value would change nothing."""
    with open(config_file, 'a') as file:
        file.write("data_root = 'data'\n")
    with pytest.raises(ValueError, match='data_root is a variable'):
        load(config_file, data_root='elsewhere')


def test_missing_and_unusable_configs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'nowhere.py'):
        load('nowhere.py')
    with pytest.raises(ValueError, match=r'fsdp.py has no model'):
        load(str(STRATEGIES / 'fsdp.py'))
    (tmp_path / 'epoch_1.pth').touch()
    with pytest.raises(ValueError, match=r'epoch_1.pth: .*\.py'):
        load(str(tmp_path / 'epoch_1.pth'))


OURS = {'type': 'AutocastOptimWrapper'}


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ({'optimizer': {}}, {'optimizer': {}, **OURS}),
        ({'type': 'OptimWrapper'}, OURS),
        ({'type': 'mmengine.OptimWrapper'}, OURS),
        ({**OURS, 'modules': ['backbone']}, {**OURS, 'modules': ['backbone']}),
        ({'type': 'AmpOptimWrapper', 'loss_scale': 2.0}, {'type': 'AmpOptimWrapper', 'loss_scale': 2.0}),
    ],
)
def test_amp(before, after):
    cfg = Config({'optim_wrapper': before})
    launch.use_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == after
    cfg = Config({'optim_wrapper': before, 'default_scope': 'mmdet'})
    launch.use_amp(cfg)
    assert cfg.optim_wrapper.get('modules') == (['backbone'] if after['type'] == OURS['type'] else None)


@pytest.mark.parametrize('wrapper', [{'type': 'DeepSpeedOptimWrapper'}, {'generator': {'optimizer': {}}}, None])
def test_amp_refuses_other_wrappers(wrapper):
    with pytest.raises(ValueError, match=r'--amp .* optim_wrapper'):
        launch.use_amp(Config({'optim_wrapper': wrapper}))


def test_auto_scale_lr():
    cfg = Config({'auto_scale_lr': {'base_batch_size': 256}})
    launch.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ValueError, match=r'auto_scale_lr.base_batch_size'):
        launch.use_auto_scale_lr(Config({}))


def test_a_test_uses_every_weight_of_the_checkpoint(tmp_path):
    def cfg():
        config = toy_config(tmp_path / 'test', epochs=1, val=True)
        config.update(test_dataloader=config['val_dataloader'], test_cfg={}, test_evaluator={'type': 'ToyScores'})
        return Config(config)

    weights = train(tmp_path / 'run', epochs=1).model.state_dict()
    checkpoint = tmp_path / 'run' / 'epoch_1.pth'
    runner = launch.build_test_runner(cfg(), str(checkpoint))
    assert all(torch.equal(value, weights[key]) for key, value in runner.model.state_dict().items())
    assert runner.test() == {'acc': 0.5}

    content = torch.load(checkpoint, weights_only=True)
    content['meta']['dataset_meta']['classes'] = ['b', 'a']
    torch.save(content, tmp_path / 'swapped.pth')
    with pytest.raises(ValueError, match=r'swapped.pth: .* other classes'):
        launch.build_test_runner(cfg(), str(tmp_path / 'swapped.pth'))
    del content['state_dict']['layer.bias']
    torch.save(content, tmp_path / 'part.pth')
    with pytest.raises(ValueError, match=r'layer.bias'):
        launch.build_test_runner(cfg(), str(tmp_path / 'part.pth'))
    with pytest.raises(FileNotFoundError, match=r'epoch_9.pth'):
        launch.build_test_runner(cfg(), 'epoch_9.pth')
    with pytest.raises(ValueError, match='test_dataloader'):
        launch.build_test_runner(Config(toy_config(tmp_path, epochs=1)), str(checkpoint))


@pytest.mark.parametrize('name', ['fsdp', 'deepspeed'])
def test_strategies_combine_with_a_config(config_file, tmp_path, name):
    child = tmp_path / f'{name}.py'
    child.write_text(f"_base_ = ['toy.py', '{STRATEGIES / name}.py']\n")
    cfg = load(str(child), str(tmp_path), experiment_name=f'toy_{name}')
    assert cfg.strategy.type.lower() == f'{name}strategy'
    if name == 'fsdp':  # DeepSpeed is not installed
        runner = launch.build_runner(cfg)
        assert isinstance(runner, FlexibleRunner)
        assert runner.strategy._is_full_state_dict()
