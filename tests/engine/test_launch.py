"""From the command line to a runner: what is understood, and what is refused in one line."""

import os
from pathlib import Path

import pytest
import torch
from engine.toy_engine import toy_config
from mmengine.config import Config
from mmengine.runner import FlexibleRunner, Runner

from randsac_mm.engine import launch
from randsac_mm.engine.distributed import prepare_cpu_processes

STRATEGIES = Path(__file__).parents[2] / 'configs' / '_base_' / 'strategies'


@pytest.fixture
def config_file(tmp_path):
    config = toy_config(tmp_path, epochs=2)
    del config['work_dir'], config['experiment_name']
    Config(config).dump(tmp_path / 'toy.py')
    return str(tmp_path / 'toy.py')


def load(path, work_dir=None, **options):
    return launch.load_config(path, options, work_dir, 'none')


def test_work_dir_is_named_after_the_config(config_file):
    assert load(config_file).work_dir == str(Path('work_dirs', 'toy'))
    assert load(config_file, work_dir='elsewhere').work_dir == 'elsewhere'
    assert load(config_file, work_dir=None).work_dir == str(Path('work_dirs', 'toy'))


def test_options_change_the_config(config_file):
    cfg = load(config_file, **{'optim_wrapper.optimizer.lr': 3.0, 'optim_wrapper.clip_grad.max_norm': 1.0})
    assert cfg.optim_wrapper.optimizer.lr == 3.0
    assert cfg.optim_wrapper.clip_grad.max_norm == 1.0
    assert load(config_file, load_from='weights.pth').load_from == 'weights.pth'


def test_misspelt_option_is_refused(config_file):
    with pytest.raises(ValueError, match=r'optim_wraper.optimizer.lr: .* did you mean optim_wrapper\?'):
        load(config_file, **{'optim_wraper.optimizer.lr': 3.0})
    with pytest.raises(ValueError, match=r'the config has no qqq; it has default_hooks, '):
        load(config_file, qqq=1)


def test_option_for_a_missing_list_item_is_refused(config_file):
    with pytest.raises(ValueError, match='--cfg-options do not fit'):
        load(config_file, **{'param_scheduler.7.end': 3})


def test_missing_and_unusable_configs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'there is no config nowhere.py'):
        load('nowhere.py')
    weights = tmp_path / 'epoch_1.pth'
    weights.touch()
    with pytest.raises(ValueError, match=r'epoch_1.pth is no config: its name must end in .py'):
        load(str(weights))
    with pytest.raises(ValueError, match=r'fsdp.py defines no model'):
        load(str(STRATEGIES / 'fsdp.py'))


@pytest.mark.parametrize(
    ('before', 'after'),
    [
        ({'optimizer': {}}, {'optimizer': {}, 'type': 'AutocastOptimWrapper', 'dtype': 'bfloat16'}),
        ({'type': 'OptimWrapper'}, {'type': 'AutocastOptimWrapper', 'dtype': 'bfloat16'}),
        ({'type': 'mmengine.OptimWrapper'}, {'type': 'AutocastOptimWrapper', 'dtype': 'bfloat16'}),
        ({'type': 'AutocastOptimWrapper'}, {'type': 'AutocastOptimWrapper'}),
        ({'type': 'AmpOptimWrapper', 'loss_scale': 2.0}, {'type': 'AmpOptimWrapper', 'loss_scale': 2.0}),
    ],
)
def test_amp(before, after):
    cfg = Config({'optim_wrapper': before})
    launch.use_amp(cfg)
    assert cfg.optim_wrapper.to_dict() == after


@pytest.mark.parametrize('wrapper', [{'type': 'DeepSpeedOptimWrapper'}, {'generator': {'optimizer': {}}}])
def test_amp_refuses_other_wrappers(wrapper):
    with pytest.raises(ValueError, match='only OptimWrapper can be switched'):
        launch.use_amp(Config({'optim_wrapper': wrapper}))


def test_amp_of_a_detector_is_that_of_its_backbone():
    cfg = Config(dict(default_scope='mmdet', optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1))))
    launch.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AutocastOptimWrapper'
    assert cfg.optim_wrapper.modules == ['backbone']


def test_auto_scale_lr():
    cfg = Config({'auto_scale_lr': {'base_batch_size': 256}})
    launch.use_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable
    with pytest.raises(ValueError, match=r'no auto_scale_lr.base_batch_size'):
        launch.use_auto_scale_lr(Config({}))


def checkpoints(folder, pointer=None, names=('epoch_2.pth', 'epoch_10.pth')):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    if pointer:
        (folder / 'last_checkpoint').write_text(str(pointer))
    return folder


def test_last_checkpoint_is_found(tmp_path):
    folder = checkpoints(tmp_path / 'run', pointer=tmp_path / 'run' / 'epoch_2.pth')
    assert launch.find_checkpoint(folder) == folder / 'epoch_2.pth'
    moved = folder.rename(tmp_path / 'moved')
    assert launch.find_checkpoint(moved) == moved / 'epoch_2.pth'
    (moved / 'epoch_2.pth').unlink()
    assert launch.find_checkpoint(moved) == moved / 'epoch_10.pth'
    (moved / 'epoch_10.pth').rename(moved / 'epoch_10.pth.partial')
    assert launch.find_checkpoint(moved) is None
    assert launch.find_checkpoint(tmp_path / 'nothing') is None


def test_checkpoint_outside_the_work_dir_is_found(tmp_path):
    elsewhere = checkpoints(tmp_path / 'elsewhere')
    folder = checkpoints(tmp_path / 'run', pointer=elsewhere / 'epoch_2.pth', names=())
    assert launch.find_checkpoint(folder) == elsewhere / 'epoch_2.pth'


def test_resume(tmp_path):
    folder = checkpoints(tmp_path / 'run')
    for resume in ('latest', 'auto', str(folder / 'epoch_10.pth')):
        cfg = Config({'work_dir': str(folder)})
        assert launch.use_resume(cfg, resume)
        assert (cfg.resume, cfg.load_from) == (True, str(folder / 'epoch_10.pth'))


def test_resume_from_another_work_dir(tmp_path):
    folder = checkpoints(tmp_path / 'run', pointer='/gone/epoch_2.pth')
    cfg = Config({'work_dir': str(tmp_path / 'new')})
    assert launch.use_resume(cfg, str(folder))
    assert cfg.load_from == str(folder / 'epoch_2.pth')


def test_resume_without_a_checkpoint(tmp_path):
    cfg = Config({'work_dir': str(tmp_path), 'load_from': 'weights.pth'})
    with pytest.raises(FileNotFoundError, match=f'no checkpoint in {tmp_path}.*--resume auto'):
        launch.use_resume(cfg, 'latest')
    with pytest.raises(FileNotFoundError, match=r'--resume epoch_9.pth: there is no such checkpoint'):
        launch.use_resume(cfg, 'epoch_9.pth')
    assert not launch.use_resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'weights.pth')


def test_test_needs_a_test_set_and_a_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r'no test_dataloader.*reconstruct.py'):
        launch.use_checkpoint_for_test(Config({}), 'epoch_1.pth')
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint epoch_1.pth'):
        launch.use_checkpoint_for_test(Config({'test_dataloader': {}}), 'epoch_1.pth')


def test_runner_is_chosen_by_the_strategy(tmp_path):
    assert type(launch.build_runner(Config(toy_config(tmp_path, epochs=2)))) is Runner
    config = Config(toy_config(tmp_path, epochs=2))
    config.merge_from_dict(Config.fromfile(STRATEGIES / 'fsdp.py').to_dict())
    runner = launch.build_runner(config)
    assert type(runner) is FlexibleRunner
    assert type(runner.strategy).__name__ == 'FSDPStrategy'
    assert runner.strategy._is_full_state_dict()


def test_strategies_combine_with_a_config(config_file, tmp_path):
    for name in ('fsdp', 'deepspeed'):
        child = tmp_path / f'{name}.py'
        child.write_text(f"_base_ = ['toy.py', '{STRATEGIES / name}.py']\n")
        cfg = load(str(child))
        assert cfg.runner_type == 'FlexibleRunner'
        assert cfg.strategy.type.lower() == f'{name}strategy'
        assert cfg.model.type == 'ToyModel'


def test_one_process_needs_no_preparation():
    cfg = Config({'launcher': 'none'})
    prepare_cpu_processes(cfg)
    assert 'model_wrapper_cfg' not in cfg


@pytest.fixture
def one_of_one(monkeypatch):
    for name, value in {'SLURM_PROCID': '0', 'SLURM_LOCALID': '0', 'SLURM_NTASKS': '1'}.items():
        monkeypatch.setenv(name, value)
    for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE'):
        monkeypatch.setenv(name, 'to be restored')
        monkeypatch.delenv(name)
    monkeypatch.setenv('MASTER_ADDR', '127.0.0.1')
    monkeypatch.setenv('MASTER_PORT', '0')
    monkeypatch.setattr('randsac_mm.engine.distributed.get_device', lambda: 'cpu')
    yield
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.mark.usefixtures('one_of_one')
def test_cpu_processes_are_connected_by_gloo_and_wrapped_without_device():
    cfg = Config({'launcher': 'slurm', 'model_wrapper_cfg': {'find_unused_parameters': True}})
    prepare_cpu_processes(cfg)
    assert torch.distributed.get_backend() == 'gloo'
    assert [os.environ[name] for name in ('RANK', 'LOCAL_RANK', 'WORLD_SIZE')] == ['0', '0', '1']
    assert cfg.model_wrapper_cfg.to_dict() == {
        'type': 'MMDistributedDataParallel',
        'broadcast_buffers': False,
        'find_unused_parameters': True,
        'device_ids': None,
    }


@pytest.mark.usefixtures('one_of_one')
@pytest.mark.parametrize(
    ('launcher', 'message'),
    [
        ('mpi', '--launcher mpi needs OMPI_COMM_WORLD_RANK.* start it by mpirun'),
        ('pytorch', '--launcher pytorch needs RANK, LOCAL_RANK, WORLD_SIZE .*torchrun'),
        ('pbs', "launcher='pbs' is unknown; choose one of none, pytorch, slurm, mpi"),
    ],
)
def test_missing_environment_is_refused(launcher, message):
    with pytest.raises(ValueError, match=message):
        prepare_cpu_processes(Config({'launcher': launcher}))
