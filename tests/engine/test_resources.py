"""Cores are shared fairly, workers fit them, and freed memory is used again."""

import contextlib
import multiprocessing
import platform
import subprocess
import sys

import pytest
from engine.toy_engine import Interrupted, toy_config
from mmengine.config import Config
from mmengine.runner import Runner

from randsac_mm.engine import resources
from randsac_mm.engine.resources import cores_per_process, ending_workers, fit_workers


@pytest.mark.parametrize(
    ('environment', 'limit', 'cores'),
    [
        ({}, 'max 100000\n', 64),
        ({}, '250000 100000\n', 3),
        ({'LOCAL_WORLD_SIZE': '8'}, 'max 100000', 8),
        ({'SLURM_NTASKS_PER_NODE': '128'}, 'max 100000', 1),
        ({'SLURM_CPUS_PER_TASK': '12', 'SLURM_NTASKS_PER_NODE': '8'}, 'max 100000', 12),
        ({'SLURM_CPUS_PER_TASK': '32', 'LOCAL_WORLD_SIZE': '4'}, 'max 100000', 8),
    ],
)
def test_cores_are_divided_by_the_processes_of_the_machine(monkeypatch, tmp_path, environment, limit, cores):
    monkeypatch.setattr('os.sched_getaffinity', lambda pid: range(64), raising=False)
    monkeypatch.setattr(resources, '_CGROUP', tmp_path / 'cpu.max')
    (tmp_path / 'cpu.max').write_text(limit)
    for name in ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'SLURM_CPUS_PER_TASK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cores_per_process() == cores


@pytest.mark.parametrize(
    ('cores', 'config', 'workers'),
    [
        (12, {'auto_num_workers': 32}, 11),
        (12, {}, 8),
        (12, {'auto_num_workers': 32, 'train_dataloader': {'num_workers': 0}}, 0),
        (1, {'auto_num_workers': 32}, 1),
    ],
)
def test_workers_are_fitted_to_the_machine(monkeypatch, cores, config, workers):
    monkeypatch.setattr(resources, 'cores_per_process', lambda: cores)
    cfg = Config({'train_dataloader': {'num_workers': 8}, **config})
    fit_workers(cfg, {'train_dataloader.num_workers': 8})
    assert cfg.train_dataloader.num_workers == config.get('train_dataloader', {}).get('num_workers', 8)
    fit_workers(cfg, {})
    assert cfg.train_dataloader.num_workers == workers


@pytest.mark.parametrize('length', [{'iters': 6}, {'epochs': 2}])
@pytest.mark.parametrize('stop', [None, 5])
def test_workers_end_with_the_training(tmp_path, length, stop):
    config = toy_config(tmp_path, workers=2, **length)
    config['train_dataloader']['persistent_workers'] = True
    config['custom_hooks'] = [{'type': 'Interrupt', 'iteration': stop}] if stop else []
    runner = Runner.from_cfg(Config(config))
    before = set(multiprocessing.active_children())
    with pytest.raises(Interrupted) if stop else contextlib.nullcontext(), ending_workers(runner):
        runner.train()
    assert runner.iter == (stop or runner.max_iters)
    assert set(multiprocessing.active_children()) <= before


MEASURE = """
import resource
from randsac_mm.engine.resources import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        b'x' * 2**26  # 64 MiB, more than glibc keeps by itself; freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults()
keep_freed_memory()
faults()
assert usual > 1000 and faults() < 100
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only glibc keeps memory on request')
def test_no_page_is_asked_of_the_system_for_what_was_freed_a_moment_ago():
    subprocess.run([sys.executable, '-c', MEASURE], check=True)
