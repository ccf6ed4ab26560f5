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


def test_as_base_of_another_projects_config_in_a_process_without_this_package(tmp_path):
    config = tmp_path / 'mine.py'
    config.write_text("_base_ = __import__('randsac_mm').config_path('randsac/vit-s_folder.py')\nbatch_size = 3\n")
    code = f'import mmengine; c = mmengine.Config.fromfile({str(config)!r}); print(c.model.type, c.batch_size)'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.stdout.split()[-2:] == ['RandSAC', '3'], done.stderr
