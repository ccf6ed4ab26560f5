"""Two processes without a GPU train Mask R-CNN through the tools, on data some of whose images show nothing.

Without a gradient for every parameter in every process, they would wait for each other for ever.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_processes_train_validate_and_save(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / 'run'
    val = shapes / 'annotations' / 'instances_val2017.json'
    environment = dict(
        os.environ,
        OMP_NUM_THREADS='1',
        PYTHONPATH=str(ROOT),
        PORT=str(29600 + os.getpid() % 300),
        PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']]),
    )
    command = ['bash', 'tools/dist_train.sh', 'configs/smoke/mask-rcnn_vit_shapes.py', '2', '--work-dir', str(out)]
    options = [
        '--cfg-options',
        f'train_dataloader.dataset.data_root={shapes}',
        'train_dataloader.batch_size=1',
        f'val_dataloader.dataset.data_root={shapes}',
        f'val_evaluator.ann_file={val}',
        'model.test_cfg.rcnn.max_per_img=5',
    ]
    done = subprocess.run(
        command + options,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'segm_mAP' in done.stdout + done.stderr
    state = torch.load(out / 'epoch_2.pth', weights_only=True)['state_dict']
    assert not any(key.startswith('module.') for key in state)
    assert all(torch.isfinite(value).all() for value in state.values())
