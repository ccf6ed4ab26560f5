"""Contract: the quick start trains, judges beside baselines, draws, and writes down what it did."""

import json
from pathlib import Path

import pytest

from randsac_mm.quickstart import Scores, farewell, mean_scores, run, table

CONFIG = Path(__file__).resolve().parents[1] / 'configs' / 'randsac' / 'vit_digits.py'


@pytest.mark.slow
def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(CONFIG, tmp_path, seeds=[3], with_raster=True, epochs=2)
    assert json.loads((tmp_path / 'summary.json').read_text()) == summary
    accuracy = summary['accuracy_percent']
    assert list(accuracy) == ['raw pixels', 'encoder, untrained', 'encoder, RandSAC', 'encoder, raster order']
    assert accuracy['raw pixels'][0]['knn'] > 95
    # Different weights do not classify 360 digits alike by chance: each row judged an encoder of its own.
    encoders = [tuple(scores[0].values()) for name, scores in accuracy.items() if name != 'raw pixels']
    assert len(set(encoders)) == 3
    assert all(10 < value < 100 for scores in encoders for value in scores)
    assert (summary['epochs'], summary['seeds']) == (2, [3])
    assert sorted(Path(path).name for path in summary['pictures'].values()) == [
        'loss.png',
        'reconstruction.png',
        'serialization.gif',
        'serialization.png',
    ]
    assert all(Path(path).stat().st_size > 1000 for path in summary['pictures'].values())
    assert (Path(summary['checkpoints']) / 'epoch_2.pth').is_file()
    assert 'encoder, raster order' in capsys.readouterr().out
    words = farewell(tmp_path, summary)
    assert 'Raw pixels are strong here' in words
    assert all(path in words for path in summary['pictures'].values())


def test_the_table_shows_mean_and_seeds() -> None:
    scores = [Scores(10.0, 20.0), Scores(20.0, 40.0)]
    assert mean_scores(scores) == (15.0, 30.0)
    line = table({'encoder': scores}).splitlines()[1]
    assert line.split() == ['encoder', '15.0', '30.0', '(seeds:', '10.0/20.0,', '20.0/40.0)']
