"""Every mistake of a user is named with its value and the way out, before anything is predicted."""

import os
import subprocess
import sys

import pytest
import torch
from inference.conftest import MAKE, photo
from inference.tiny import save_weights, upernet
from mmpretrain.registry import MODELS

from randsac_mm.inference import Predictor


def test_checkpoint_of_pre_training(trained, task, root, tmp_path):
    from mmengine.config import Config

    model = MODELS.build(Config.fromfile(root / 'configs' / 'randsac' / 'vit_digits.py').model)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'pre.pth')
    with pytest.raises(
        ValueError, match=r'(?s)pre\.pth does not fit.*It holds no \w+_head: it comes from pre-training'
    ):
        Predictor(trained[task][0], tmp_path / 'pre.pth')


def test_checkpoint_of_the_other_task(trained, task):
    (other,) = set(MAKE) - {task}
    with pytest.raises(ValueError, match=r'missing: .* more\n  left over: .*more'):
        Predictor(trained[task][0], trained[other][1])


def test_other_number_of_classes(task, tmp_path):
    checkpoint = save_weights(MAKE[task](classes=('a', 'b', 'c', 'd')), tmp_path / 'four.pth')
    with pytest.raises(ValueError, match=r'(?s)missing: nothing\n  left over: nothing\n.*size mismatch .*num_classes'):
        Predictor(MAKE[task](), checkpoint)


@pytest.mark.parametrize(('option', 'value'), [('patch_size', 16), ('arch.embed_dims', 64), ('arch.num_layers', 5)])
def test_other_backbone(tmp_path, option, value):
    cfg = upernet()
    cfg.merge_from_dict({f'model.backbone.{option}': value})
    if option == 'patch_size':
        cfg.model.neck.patch_size = value
    if option == 'arch.embed_dims':
        cfg.model.neck.embed_dims = cfg.model.auxiliary_head.in_channels = value
        cfg.model.decode_head.in_channels = [value] * 4
    checkpoint = save_weights(cfg, tmp_path / 'other.pth')
    with pytest.raises(ValueError, match=r'other\.pth does not fit the config'):
        Predictor(upernet(), checkpoint)


def test_positions_of_another_architecture_are_explained(trained, tmp_path):
    checkpoint = torch.load(trained['segmentation'][1], weights_only=True)
    checkpoint['state_dict']['backbone.pos_embed'] = torch.randn(1, 64, 32)
    torch.save(checkpoint, tmp_path / 'learned.pth')
    with pytest.raises(ValueError, match=r'(?s)learned\.pth does not fit.*learned positions'):
        Predictor(trained['segmentation'][0], tmp_path / 'learned.pth')


def test_unreadable_checkpoint(trained, tmp_path):
    config, checkpoint = trained['segmentation']
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint .*gone\.pth'):
        Predictor(config, tmp_path / 'gone.pth')
    (tmp_path / 'cut.pth').write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r'cut\.pth is no checkpoint that can be read safely'):
        Predictor(config, tmp_path / 'cut.pth')


def test_a_checkpoint_executes_nothing(trained, tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'executed'),)

    torch.save({'state_dict': {}, 'meta': Trap()}, tmp_path / 'trap.pth')
    with pytest.raises(ValueError, match='no checkpoint that can be read safely'):
        Predictor(trained['segmentation'][0], tmp_path / 'trap.pth')
    assert not (tmp_path / 'executed').exists()


def test_config_of_another_kind(root, trained, tmp_path):
    checkpoint = trained['segmentation'][1]
    with pytest.raises(ValueError, match=r"default_scope='mmpretrain': only configs of .*reconstruct\.py"):
        Predictor(root / 'configs' / 'randsac' / 'vit_digits.py', checkpoint)
    with pytest.raises(FileNotFoundError, match=r'there is no config .*gone\.py'):
        Predictor(tmp_path / 'gone.py', checkpoint)
    cfg = upernet()
    cfg.test_dataloader.dataset = dict(type='ConcatDataset', datasets=[cfg.test_dataloader.dataset])
    with pytest.raises(ValueError, match=r"no test_dataloader\.dataset\.pipeline \(its data set is 'ConcatDataset'\)"):
        Predictor(cfg, checkpoint)
    cfg.test_dataloader = None
    with pytest.raises(ValueError, match=r'no test_dataloader\.dataset\.pipeline'):
        Predictor(cfg, checkpoint)


def test_classes_must_be_as_many_as_are_predicted(tmp_path):
    cfg = upernet()
    checkpoint = save_weights(cfg, tmp_path / 'w.pth')
    cfg.test_dataloader.dataset.metainfo = dict(classes=('one', 'two'))
    with pytest.raises(ValueError, match='the model predicts 3 classes, but its data set names 2: set'):
        Predictor(cfg, checkpoint)


def test_arguments_out_of_range(trained):
    with pytest.raises(ValueError, match=r'score_thr=1\.5 must lie between 0 and 1'):
        Predictor(*trained['detection'], score_thr=1.5)
    with pytest.raises(ValueError, match=r'score_thr=0\.5: a segmentation map has no scores'):
        Predictor(*trained['segmentation'], score_thr=0.5)
    with pytest.raises(ValueError, match=r"device='gpu' is unknown"):
        Predictor(*trained['segmentation'], device='gpu')
    with pytest.raises(ValueError, match=r"device='cuda:99': this machine has \d+ CUDA devices"):
        Predictor(*trained['segmentation'], device='cuda:99')


def test_a_missing_library_is_named(trained, task, monkeypatch):
    scope = {'segmentation': 'mmseg', 'detection': 'mmdet'}[task]
    monkeypatch.setitem(sys.modules, f'{scope}.apis', None)
    with pytest.raises(ValueError, match=rf'the config needs {scope}, which is missing or broken'):
        Predictor(*trained[task])


@pytest.mark.slow
def test_tool_predicts_names_faults_and_fails(root, trained, tmp_path):
    photo(tmp_path / 'in' / 'a.png')
    (tmp_path / 'in' / 'b.png').write_text('no image')
    command = [sys.executable, root / 'tools' / 'predict.py', *trained['detection'], tmp_path / 'in']
    options = ['--out', tmp_path / 'out', '--score-thr', '0.1', '--cfg-options', 'model.test_cfg.rcnn.max_per_img=2']
    environment = {**os.environ, 'PYTHONPATH': str(root)}
    done = subprocess.run(
        list(map(str, [*command, *options])), env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1, done.stderr
    assert f'{tmp_path}/out/pictures/a.png {tmp_path}/out/instances/a.json' in done.stdout
    assert f'not predicted: {tmp_path}/in/b.png: no image that Pillow can read' in done.stderr
    assert 'predict.py: error: 1 of 2 images could not be predicted' in done.stderr
    assert (tmp_path / 'out' / 'instances' / 'a.json').read_text().count('"size"') <= 2
