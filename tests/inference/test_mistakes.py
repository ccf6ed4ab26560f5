"""Every mistake of a user is named with its value and the way out, before anything is predicted."""

import sys

import pytest
import torch
from inference.conftest import MAKE, photo
from inference.tiny import save_weights, upernet
from mmengine.config import Config
from mmpretrain.registry import MODELS
from processes import run

from randsac_mm.inference import Predictor


def test_checkpoint_of_pre_training(trained, task, root, tmp_path):
    model = MODELS.build(Config.fromfile(root / 'configs' / 'randsac' / 'vit_digits.py').model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'pre.pth')
    with pytest.raises(ValueError, match=r'pre\.pth(?s:.*)pre-training'):
        Predictor(trained[task][0], tmp_path / 'pre.pth')


def test_checkpoint_of_the_other_task(trained, task):
    (other,) = set(MAKE) - {task}
    with pytest.raises(ValueError, match=trained[other][1].name):
        Predictor(trained[task][0], trained[other][1])


def test_other_number_of_classes(task, tmp_path):
    checkpoint = save_weights(MAKE[task](classes=('a', 'b', 'c', 'd')), tmp_path / 'four.pth')
    with pytest.raises(ValueError, match=r'four\.pth(?s:.*)num_classes'):
        Predictor(MAKE[task](), checkpoint)


def test_missing_and_truncated_checkpoints(trained, tmp_path):
    config, checkpoint = trained['segmentation']
    (tmp_path / 'cut.pth').write_bytes(checkpoint.read_bytes()[:5000])
    for name, error in (('gone.pth', FileNotFoundError), ('cut.pth', ValueError)):
        with pytest.raises(error, match=name):
            Predictor(config, tmp_path / name)


def test_config_of_another_kind(root, trained, tmp_path):
    checkpoint = trained['segmentation'][1]
    with pytest.raises(ValueError, match="default_scope='mmpretrain'"):
        Predictor(root / 'configs' / 'randsac' / 'vit_digits.py', checkpoint)
    with pytest.raises(FileNotFoundError, match=r'gone\.py'):
        Predictor(tmp_path / 'gone.py', checkpoint)
    cfg = upernet()
    for loader in (dict(dataset=dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset])), None):
        cfg.test_dataloader = loader
        with pytest.raises(ValueError, match=r'test_dataloader\.dataset\.pipeline'):
            Predictor(cfg, checkpoint)


def test_classes_must_be_as_many_as_are_predicted(tmp_path):
    cfg = upernet()
    checkpoint = save_weights(cfg, tmp_path / 'w.pth')
    cfg.test_dataloader.dataset.metainfo = dict(classes=('one', 'two'))
    with pytest.raises(ValueError, match=r'3 classes.* 2'):
        Predictor(cfg, checkpoint)


@pytest.mark.parametrize(
    ('task', 'options', 'named'),
    [
        ('detection', dict(score_thr=1.5), r'score_thr=1\.5'),
        ('segmentation', dict(score_thr=0.5), r'score_thr=0\.5'),
        ('segmentation', dict(device='cuda:99'), "device='cuda:99'"),
    ],
)
def test_arguments_out_of_range(trained, task, options, named):
    with pytest.raises(ValueError, match=named):
        Predictor(*trained[task], **options)


def test_a_missing_library_is_named(trained, task, monkeypatch):
    scope = 'mmseg' if task == 'segmentation' else 'mmdet'
    monkeypatch.setitem(sys.modules, f'{scope}.apis', None)
    with pytest.raises(ValueError, match=scope):
        Predictor(*trained[task])


@pytest.mark.slow
def test_tool_predicts_names_faults_and_fails(root, trained, tmp_path):
    photo(tmp_path / 'in' / 'a.png')
    (tmp_path / 'in' / 'b.png').write_text('no image')
    photo(tmp_path / 'in' / 'large.png', 120, 120)
    options = ['--out', tmp_path / 'out', '--score-thr', '0.1', '--max-pixels', '5000']
    options += ['--cfg-options', 'model.test_cfg.rcnn.max_per_img=2']
    found = run('python', root / 'tools' / 'predict.py', *trained['detection'], tmp_path / 'in', *options, ok=False)
    assert f'{tmp_path}/out/pictures/a.png {tmp_path}/out/instances/a.json' in found
    assert f'not predicted: {tmp_path}/in/b.png: no image of BMP, ' in found
    assert f'not predicted: {tmp_path}/in/large.png: 14400 pixels, above the limit of 5000' in found
    assert 'predict.py: error: 2 of 3 images could not be predicted' in found
    assert (tmp_path / 'out' / 'instances' / 'a.json').read_text().count('"size"') <= 2
