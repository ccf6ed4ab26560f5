import subprocess
import sys

import pytest
from mmengine.config import Config
from processes import environment

import randsac_mm


def test_a_config_of_ours_by_its_name():
    cfg = Config.fromfile(randsac_mm.config_path('randsac/vit-s_folder.py'))
    assert cfg.model.type == 'RandSAC'
    with pytest.raises(FileNotFoundError, match=r'randsac/vit-q\.py.*configs'):
        randsac_mm.config_path('randsac/vit-q.py')


@pytest.mark.parametrize(
    'name',
    [
        *('randsac/vit-s_folder.py', 'randsac/vit-t_two-stream_cifar10.py', 'finetune/finetune_vit-s_own.py'),
        *('segmentation/upernet_vit-s_own.py', 'detection/mask-rcnn_vit-s_own_coco.py', '_base_/default_runtime.py'),
    ],
)
def test_a_base_by_its_name_is_read_as_by_its_path(tmp_path, name):
    """No scope is added, so whatever builds from the file does: classification, segmentation, detection."""
    (tmp_path / 'mine.py').write_text(f"_base_ = ['randsac_mm::{name}']\nmine = _base_.get('model')\n")
    cfg, own = (Config.fromfile(path).to_dict() for path in (tmp_path / 'mine.py', randsac_mm.config_path(name)))
    mine = cfg.pop('mine') or {}  # a part that is taken from the base on its own
    assert cfg == own
    assert mine.get('type') == (own.get('model') or {}).get('type')
    assert mine.get('_scope_') != 'randsac_mm'


def test_a_base_that_is_not_ours_is_found_as_before(tmp_path):
    base = tmp_path / 'base.py'
    base.write_text('a = 1\n')
    (tmp_path / 'relative.py').write_text("_base_ = 'base.py'\n")
    (tmp_path / 'other.py').write_text("_base_ = 'mmpretrain::_base_/default_runtime.py'\n")
    (tmp_path / 'wrong.py').write_text("_base_ = 'randsac_mm::randsac/vit-q.py'\n")
    assert Config.fromfile(tmp_path / 'relative.py').a == 1
    assert Config.fromfile(tmp_path / 'other.py').default_scope == 'mmpretrain'
    with pytest.raises(FileNotFoundError, match=r'randsac/vit-q\.py.*configs'):
        Config.fromfile(tmp_path / 'wrong.py')


@pytest.mark.slow
def test_as_base_of_another_projects_config_in_a_process_without_this_package(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = __import__('randsac_mm').config_path('randsac/vit-s_folder.py')\nbatch_size = 3\n")
    code = f'import mmengine; c = mmengine.Config.fromfile({str(config)!r}); print(c.model.type, c.batch_size)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.stdout.split()[-2:] == ['RandSAC', '3'], done.stderr
