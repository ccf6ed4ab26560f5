"""The scripts, called in this process: pictures appear, numbers are right, mistakes are named."""

import json

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image, ImageSequence
from visualization.checks import Page, check_picture

import randsac_mm  # noqa: F401  registers the models


@pytest.fixture
def digits(root, tmp_path):
    """Return config and checkpoint of an untrained model."""
    config, path = root / 'configs' / 'randsac' / 'vit_digits.py', tmp_path / 'digits.pth'
    torch.save({'state_dict': MODELS.build(Config.fromfile(config).model).state_dict()}, path)
    return config, path


@pytest.mark.slow
def test_serialization_of_the_sample_photo(run_tool, tmp_path, capsys):
    run_tool('visualization/serialization.py', '--out', tmp_path, '--num', 2, '--kind', 'blob', '--hierarchy', 11, 5)
    names = ['flower_0.png', 'flower_0.gif', 'flower_1.png', 'flower_1.gif']
    assert capsys.readouterr().out.split() == [str(tmp_path / name) for name in names]
    for name in names:
        check_picture(tmp_path / name, name[-3:].upper(), least=(480, 480))


def test_serialization_of_a_file_as_a_config_says(run_tool, digits, tmp_path):
    Image.new('RGB', (40, 50), 'red').save(tmp_path / 'photo.jpg')
    out = tmp_path / 'new'
    run_tool('visualization/serialization.py', digits[0], '--image', tmp_path / 'photo.jpg', '--out', out)
    with Image.open(out / 'photo.gif') as gif:
        frames = [frame.convert('RGB').tobytes() for frame in ImageSequence.Iterator(gif)]
        assert gif.info['duration'] == 2500, 'the last one stays'
    assert len(set(frames)) == len(frames) == 17, '16 segments and the whole image'


def test_serialization_names_mistakes(run_tool, tmp_path):
    for options, message in ((['--hierarchy', 7], '12 x 12 .* 7'), (['--image', 'nothing.jpg'], r'nothing\.jpg')):
        with pytest.raises(SystemExit, match=message):
            run_tool('visualization/serialization.py', '--out', tmp_path, *options)


def test_reconstruct_digits_of_the_data_set(run_tool, digits, tmp_path, capsys):
    run_tool('visualization/reconstruct.py', *digits, '--out', tmp_path / 'out', '--num', 3)
    assert 'predicts pixels directly' in capsys.readouterr().out
    result = json.loads((tmp_path / 'out' / 'reconstruction.json').read_text())
    assert not result['norm_pix']
    assert result['images'] == ['0', '1', '2']
    for mse, errors in zip(result['mse'], result['mse_per_rank'], strict=True):
        assert len(errors) == 16
        assert errors[0] is None
        assert mse == pytest.approx(np.mean(errors[1:]))
    check_picture(tmp_path / 'out' / 'reconstruction.png', least=(1000, 300))


def test_reconstruct_files_with_norm_pix_names_it(run_tool, digits, tmp_path, capsys):
    (tmp_path / 'photos' / 'deep').mkdir(parents=True)
    for name in ('deep/b.png', 'c.png'):
        Image.new('RGB', (9, 11), (200, 100, 50)).save(tmp_path / 'photos' / name)
    options = ('--out', tmp_path / 'out', '--cfg-options', 'model.head.norm_pix=True')
    run_tool('visualization/reconstruct.py', *digits, '--images', tmp_path / 'photos', *options)
    assert 'TARGET patch' in capsys.readouterr().out
    result = json.loads((tmp_path / 'out' / 'reconstruction.json').read_text())
    assert result['images'] == [str(tmp_path / 'photos' / name) for name in ('c.png', 'deep/b.png')]


@pytest.mark.slow
def test_attention_features_ranks_and_skip_weights(run_tool, digits, tmp_path, capsys):
    out = tmp_path / 'out'
    run_tool('visualization/attention.py', *digits, '--out', out, '--num', 2, '--query', 0, 3, '--layers', -1)
    attention = json.loads((out / 'attention.json').read_text())
    assert (attention['query'], attention['layers'], attention['images']) == ([0, 3], [3], ['0', '1'])
    run_tool('visualization/features.py', *digits, '--out', out, '--num', 4)
    assert len(json.loads((out / 'features.json').read_text())['explained_variance']) == 3
    run_tool('visualization/loss_by_rank.py', *digits, '--out', out, '--num', 10)
    ranks = json.loads((out / 'loss_by_rank.json').read_text())
    assert ranks['by_rank']['rank'] == list(range(1, 16))
    assert f'{ranks["overall"]["mse"][0]:.4f}' in capsys.readouterr().out
    run_tool('visualization/skip_weights.py', *digits, '--out', out)
    assert json.loads((out / 'skip_weights.json').read_text())['weights'] == [[0.25, 0.25]] * 4
    for name in ('attention', 'attention_heads', 'features', 'loss_by_rank', 'skip_weights'):
        check_picture(out / f'{name}.png')


@pytest.mark.parametrize(
    ('tool', 'options', 'message'),
    [
        ('attention', ['--layers', 4], r'attention\.py: error: layers=\[4\].* 4'),
        ('attention', ['--query', 4, 0], r'query=\[4, 0\].* 3.* 3'),
        ('reconstruct', ['--cfg-options', 'model.neck.num_layers=1'], r'neck\.layers\.1\.'),
        ('reconstruct', ['--images', '/none/x.png'], r'/none/x\.png'),
        ('reconstruct', ['--images', '{folder}'], 'no image'),
        ('features', ['--num', 0], '2'),
    ],
)
def test_mistakes_end_with_one_line_and_no_files(run_tool, digits, tmp_path, tool, options, message):
    options = [str(option).format(folder=tmp_path) for option in options]
    with pytest.raises(SystemExit, match=message):
        run_tool(f'visualization/{tool}.py', *digits, '--out', tmp_path / 'out', *options)
    assert not (tmp_path / 'out').exists()


def test_other_checkpoints_and_models_are_refused(run_tool, digits, tmp_path):
    other = tmp_path / 'other.py'
    other.write_text("model = dict(type='ImageClassifier', backbone=dict(type='RandSACViT', arch='deit-tiny'))")
    for config, checkpoint, message in ((digits[0], 'none.pth', r'none\.pth'), (other, digits[1], 'ImageClassifier')):
        with pytest.raises(SystemExit, match=message):
            run_tool('visualization/features.py', config, checkpoint, '--out', tmp_path)


@pytest.mark.slow
def test_report_is_written_whole_or_not_at_all(run_tool, digits, tmp_path, capsys):
    config, checkpoint = digits
    work_dir, out, bad = tmp_path / 'work', tmp_path / 'deep' / 'page.html', tmp_path / 'none.json'
    work_dir.mkdir()
    (work_dir / 'epoch_1.pth').write_bytes(checkpoint.read_bytes())
    Config.fromfile(config).dump(work_dir / 'digits.py')
    run_tool('report.py', work_dir, '--out', out, '--num', 1)
    assert capsys.readouterr().out.split() == [str(out)]
    assert Page(out.read_text()).faults == []
    bad.write_text('{')
    for options in ([tmp_path / 'none'], [work_dir, '--checkpoint', 'none.pth'], [work_dir, '--probe', bad]):
        with pytest.raises(SystemExit, match=r'report\.py: error: .*none'):
            run_tool('report.py', *options, '--out', tmp_path / 'other.html')
    assert not (tmp_path / 'other.html').exists()
