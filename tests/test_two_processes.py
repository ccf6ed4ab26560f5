"""Contract: two processes without a GPU train UPerNet and Mask R-CNN by the script that users call.

Some images show nothing: without a gradient for every parameter in every process, they would wait for each other for
ever. The recipes' SyncBN, which CPUs do not have, is replaced.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

UPERNET = [
    *('train_dataloader.batch_size=2', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'param_scheduler.1.end=5'),
    *('default_hooks.checkpoint.interval=2', 'default_hooks.logger.interval=1'),
]
MASK_RCNN = ['train_dataloader.batch_size=1', 'model.test_cfg.rcnn.max_per_img=5']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'data', 'changes', 'metric', 'written'),
    [
        ('upernet_vit_shapes', 'ade20k', UPERNET, 'mIoU', 'iter_2.pth'),
        ('mask-rcnn_vit_shapes', 'coco', MASK_RCNN, 'segm_mAP', 'epoch_2.pth'),
    ],
    ids=['UPerNet', 'Mask R-CNN'],
)
def test_two_processes_train_validate_and_save(
    config: str, data: str, changes: list[str], metric: str, written: str, root: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': os.pathsep.join([str(root), os.environ.get('PYTHONPATH', '')]),
        'PORT': str(20000 + os.getpid() % 10000),
        'PATH': f'{Path(sys.executable).parent}{os.pathsep}{os.environ["PATH"]}',
    }

    def run(*command: object) -> str:
        command = [str(part) for part in command]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout + done.stderr

    run(sys.executable, root / 'tools' / 'make_shapes.py', '--out', tmp_path / 'shapes', '--size', 64, 80)
    shapes = tmp_path / 'shapes' / data
    changes = [*changes, *(f'{split}_dataloader.dataset.data_root={shapes}' for split in ('train', 'val', 'test'))]
    if data == 'coco':
        changes.append(f'val_evaluator.ann_file={shapes / "annotations" / "instances_val2017.json"}')
    command = ['bash', root / 'tools' / 'dist_train.sh', root / 'configs' / 'smoke' / f'{config}.py', 2]
    command += ['--work-dir', tmp_path / 'run', '--cfg-options', *changes]
    log = run(*command)
    assert metric in log
    checkpoint = torch.load(tmp_path / 'run' / written, weights_only=True)
    assert len(checkpoint['meta']['random_states']) == 2
    assert not any(key.startswith('module.') for key in checkpoint['state_dict'])
    assert all(torch.isfinite(value).all() for value in checkpoint['state_dict'].values())
