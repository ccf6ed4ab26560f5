"""Two CPU processes train UPerNet by the script that users call, with the recipe's SyncBN handled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from segmentation.conftest import ROOT


@pytest.mark.slow
def test_two_processes_train_validate_and_save(shapes, tmp_path):
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')]),
        'PORT': str(20000 + (os.getpid() + 1) % 10000),
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
        'OMP_NUM_THREADS': '1',
    }
    changes = [f'{split}_dataloader.dataset.data_root={shapes}' for split in ('train', 'val', 'test')]
    changes += ['train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    changes += ['param_scheduler.1.end=5', 'default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1']
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', ROOT / 'configs' / 'smoke' / 'upernet_vit_shapes.py', 2]
    command += ['--work-dir', tmp_path / 'run', '--cfg-options', *changes]
    done = subprocess.run(map(str, command), env=environment, capture_output=True, text=True, timeout=300)
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-4000:]
    assert log.count('3 x SyncBN in the config became BN') == 1  # only the first process writes a log
    assert 'mIoU:' in log
    checkpoint = torch.load(tmp_path / 'run' / 'iter_2.pth', weights_only=True)
    assert len(checkpoint['meta']['random_states']) == 2
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())
