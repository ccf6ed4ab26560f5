"""A long run neither grows nor leaks.

All 10,000 steps:  RELIABILITY_RUNS=10000 bash tools/run_tests.sh tests/reliability/test_long_run.py -rP
"""

import gc
import json
import os
import re
from pathlib import Path

import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from processes import ROOT
from reliability.forked import COUNT, end, fork

from randsac_mm.engine import launch
from randsac_mm.engine.schedule import set_epochs


@HOOKS.register_module()
class WatchProcess(Hook):
    """Notes memory in bytes and the number of open files every 100 steps."""

    def __init__(self):
        self.notes = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if (runner.iter + 1) % 100 == 0:
            gc.collect()
            memory = int(re.search(r'VmRSS:\s+(\d+) kB', Path('/proc/self/status').read_text())[1]) * 1024
            self.notes.append((memory, len(os.listdir('/proc/self/fd'))))
            Path(runner.work_dir, 'notes.json').write_text(json.dumps(self.notes))


@pytest.mark.slow
@pytest.mark.timeout(1800 + (COUNT or 0))
def test_memory_and_open_files_do_not_grow(tmp_path):
    steps = COUNT or 660

    def work():
        cfg = launch.load_config(str(ROOT / 'configs/randsac/vit_digits.py'), {}, str(tmp_path), 'none')
        set_epochs(cfg, max(2, steps // 22))
        cfg.model.backbone.arch = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
        cfg.model.neck.update(embed_dims=24, num_layers=1, num_heads=2)
        cfg.custom_hooks = [dict(type='WatchProcess')]
        launch.train(cfg)

    status, _ = end(fork(tmp_path, work))
    assert status == 0, (tmp_path / 'output.txt').read_text()[-3000:]
    notes = json.loads((tmp_path / 'notes.json').read_text())
    after_warm_up = notes[len(notes) // 3 :]
    growth = after_warm_up[-1][0] / after_warm_up[0][0] - 1
    print(
        f'{100 * len(notes):,} steps: memory grew by {growth:.2%} in the last two thirds, from '
        f'{after_warm_up[0][0] / 2**20:.0f} MB; open files {after_warm_up[0][1]} -> {after_warm_up[-1][1]}'
    )
    assert growth < 0.01
    assert after_warm_up[-1][1] == after_warm_up[0][1]
