"""The configs of this repository predict without their data sets and without the checkpoint that they start from."""

from pathlib import Path

import pytest
from inference.conftest import photo
from inference.tiny import save_weights
from mmengine.config import Config

from randsac_mm.inference import Predictor

SMOKE = Path(__file__).parents[2] / 'configs' / 'smoke'


@pytest.mark.parametrize('config', ['upernet_vit_shapes.py', 'mask-rcnn_vit_shapes.py'])
@pytest.mark.filterwarnings('ignore:Default ``avg_non_ignore`` is False:UserWarning:mmseg')
def test_smoke_configs_predict(tmp_path, monkeypatch, config):
    cfg = Config.fromfile(SMOKE / config)
    checkpoint = save_weights(cfg, tmp_path / 'w.pth')
    monkeypatch.chdir(tmp_path)  # paths of data sets in configs are relative
    predict = Predictor(SMOKE / config, checkpoint)
    (result,) = predict(photo(tmp_path / 'a.jpg', 75, 101), out='out')
    assert result.picture.shape == (75, 101, 3)
    assert len(result.files) == 2
    assert all((tmp_path / file).stat().st_size > 0 for file in result.files)
