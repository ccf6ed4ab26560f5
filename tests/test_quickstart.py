"""Contract: the quick start trains, evaluates beside baselines, draws, and writes down what it did."""

import json
from pathlib import Path

import pytest

from randsac_mm.quickstart import Scores, format_scores, format_summary, run

CONFIG = Path(__file__).resolve().parents[1] / 'configs' / 'randsac' / 'vit_digits.py'


@pytest.mark.slow
def test_a_short_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = run(CONFIG, tmp_path, seeds=[3], with_raster=True, epochs=2)
    assert json.loads((tmp_path / 'summary.json').read_text()) == summary
    accuracy = summary['accuracy_percent']
    assert list(accuracy) == ['raw pixels', 'encoder, untrained', 'encoder, RandSAC', 'encoder, raster order']
    assert accuracy['raw pixels'][0]['knn'] > 95
    # Different weights do not classify 360 digits alike by chance: each row evaluated an encoder of its own.
    encoders = [tuple(scores[0].values()) for name, scores in accuracy.items() if name != 'raw pixels']
    assert len(set(encoders)) == 3
    assert all(10 < value < 100 for scores in encoders for value in scores)
    assert (summary['epochs'], summary['seeds']) == (2, [3])
    pictures = [Path(path) for path in summary['pictures']]
    assert len(pictures) == 4
    assert all(path.stat().st_size > 1000 for path in pictures)
    assert (Path(summary['checkpoints']) / 'epoch_2.pth').is_file()
    assert 'encoder, raster order' in capsys.readouterr().out
    assert all(str(path) in format_summary(tmp_path, summary) for path in pictures)


def test_the_table_shows_mean_and_seeds() -> None:
    line = format_scores({'encoder': [Scores(10.0, 20.0), Scores(20.0, 40.0)]}).splitlines()[1]
    assert line.split() == ['encoder', '15.0', '30.0', '(seeds:', '10.0/20.0,', '20.0/40.0)']
