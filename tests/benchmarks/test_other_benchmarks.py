"""The benchmarks of data and transfer run at tiny sizes, on equal terms, and write what they measure."""

import json
import subprocess

import pytest
import torch


@pytest.mark.slow
def test_data_paths_are_timed(bench, tmp_path):
    bench('data').main(['--batch-size', '16', '--rounds', '3', '--out', str(tmp_path / 'data')])
    report = json.loads((tmp_path / 'data.json').read_text())
    assert report['images_per_second'].keys() == {'mmpretrain', 'randsac_mm'}
    assert min(report['ratio'], report['jpeg_files_per_second']) > 0
    assert f'{report["ratio"]:.2f}' in (tmp_path / 'data.md').read_text()


@pytest.mark.slow
def test_both_data_paths_make_the_same_kind_of_batch(bench):
    from mmengine.registry import init_default_scope

    data = bench('data')
    init_default_scope('mmpretrain')
    paths = [data.batches(name, 64, torch.device('cpu')) for name in data.DATA]
    theirs, ours = (torch.stack([next(path) for _ in range(4)]) for path in paths)
    assert theirs.shape == ours.shape == (4, 64, 3, 32, 32)
    torch.testing.assert_close(theirs.mean((0, 1, 3, 4)), ours.mean((0, 1, 3, 4)), rtol=0, atol=0.05)
    torch.testing.assert_close(theirs.std(), ours.std(), rtol=0.05, atol=0)


def shrink(cfg, dims=32):
    small = dict(embed_dims=dims, num_layers=4, num_heads=2)
    if cfg.backbone.type == 'MAE':
        cfg.backbone.update(**small, img_size=(128, 128), out_indices=[0, 1, 2, 3])
        cfg.neck.embed_dim = dims
    else:
        cfg.backbone.arch = dict(**small, feedforward_channels=4 * dims)
        pyramid, *others = cfg.neck if isinstance(cfg.neck, list) else [cfg.neck]
        pyramid.embed_dims = dims
        for neck in others:
            neck.in_channels = [dims] * 4
    if 'decode_head' in cfg:
        cfg.decode_head.update(in_channels=[dims] * 4, channels=dims)
        cfg.auxiliary_head.update(in_channels=dims, channels=dims)
    return cfg


@pytest.mark.slow
@pytest.mark.parametrize('name', ['upernet', 'upernet-mmseg', 'mask-rcnn-checkpointing'])
def test_a_transfer_step_is_measured(bench, name):
    transfer = bench('transfer_step')
    row = transfer.measure_step(name, shrink(transfer.model_config(name)), 128, torch.device('cpu'))
    assert row['bytes_peak'] > 1e8
    tokens = 64 + (name == 'upernet-mmseg')  # mmseg's has a class token
    encoder = 64 * 768 * 32 + 4 * (tokens * 12 * 32**2 + 2 * tokens**2 * 32)
    assert encoder < row['multiply_adds'] < (2 if 'upernet' in name else 150) * encoder
    assert name in transfer.describe({name: row})


@pytest.mark.parametrize(
    'options', [[], ['--smoke'], ['out', '--fast'], ['out', '--device', 'tpu'], ['out', '--seconds']]
)
def test_wrong_calls_of_the_gpu_script(root, tmp_path, options):
    command = ['bash', str(root / 'tools' / 'benchmarks' / 'gpu.sh'), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert 'usage' in done.stderr
    assert not list(tmp_path.iterdir())
