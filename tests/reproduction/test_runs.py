"""Contract: a run does each stage once, goes on where it stopped, and a table says what was measured and no more."""

import json
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from randsac_mm.datasets import PreparedCIFAR10
from randsac_mm.engine.work_dir import find_whole
from randsac_mm.evaluation.frozen_encoder import build_untrained
from randsac_mm.reproduction import PROTOCOLS, Job, load_tables, measure, run_all, run_stages, stages, write_table
from randsac_mm.reproduction.all_runs import OutOfTimeError, time_limit
from randsac_mm.reproduction.tables import Measured, Row, compare_rows
from randsac_mm.transfer.model_loading import load_model
from randsac_mm.transfer.reading import read_checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
TABLES = load_tables(CONFIGS / 'paper_tables.yml')


@pytest.fixture
def cifar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for CIFAR-10: 320 noisy images, whose brightness tells their class."""

    def load(self: PreparedCIFAR10) -> list[dict]:
        rng = np.random.default_rng(self.split == 'train')
        labels = rng.integers(0, 10, 320 if self.split == 'train' else 96)
        images = np.clip(25 * labels[:, None, None, None] + rng.integers(0, 20, (len(labels), 32, 32, 3)), 0, 255)
        return [
            {'img': image, 'gt_label': int(label)} for image, label in zip(images.astype(np.uint8), labels, strict=True)
        ]

    monkeypatch.setattr(PreparedCIFAR10, 'load_data_list', load)
    stages._read.cache_clear()
    yield
    stages._read.cache_clear()


def job(folder: Path, recipe: str = 'square-16-4', seed: int = 0) -> Job:
    return Job(recipe, seed, PROTOCOLS['smoke'], folder / recipe / f'seed{seed}', CONFIGS, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize('recipe', ['transformer-skip', 'two-stream', 'mae-norm-pix-same-compute'])
def test_all_stages_of_a_run(cifar: None, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stages(job(tmp_path, recipe))
    lines = [f'{recipe}, seed 0: {stage}' for stage in ('pretrain', 'probe', 'finetune')]
    assert capsys.readouterr().out.splitlines() == lines
    found = measure(Row('row', recipe), [job(tmp_path, recipe)])
    assert {name: list(values) for name, values in found.values.items()} == {'linear': [0], 'knn': [0], 'finetune': [0]}
    assert found.values['knn'][0] > 50  # brightness is easy
    pretrain = found.runs[0]['pretrain']
    assert (pretrain['epochs'] > 1) == (recipe == 'mae-norm-pix-same-compute')
    assert (pretrain['images'], pretrain['steps']) == (128, 4 * pretrain['epochs'])
    assert 0 < pretrain['seconds'] < 60
    assert pretrain['multiply_adds'] > 64 * 48 * 16  # those of the patch embedding
    assert found.runs[0]['probe']['test_images'] == 64
    assert {'commit', 'command', 'hardware'} <= pretrain['origin'].keys()

    model = build_untrained(job(tmp_path, recipe).config().model, 0)
    weight = model.backbone.layers[1].ffn.layers[1].weight
    before = weight.detach().clone()
    load_model(model, job(tmp_path, recipe).checkpoint())
    assert (weight - before).abs().max() > 1e-4, 'the learning rate never rose'

    assert run_stages(job(tmp_path, recipe))
    assert capsys.readouterr().out == '', 'nothing is done twice'


@pytest.mark.slow
def test_baselines_and_supervised_training(cifar: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for recipe in ('untrained', 'raw-pixels', 'supervised'):
        run_stages(job(tmp_path, recipe))
    assert capsys.readouterr().out.splitlines() == [
        'untrained, seed 0: probe',
        'raw-pixels, seed 0: probe',
        'supervised, seed 0: pretrain',
        'supervised, seed 0: probe',
    ]
    supervised = measure(Row('row', 'supervised'), [job(tmp_path, 'supervised')])
    run = job(tmp_path, 'supervised')
    model = build_untrained(run.config().model, 0)
    model.eval()
    load_model(model, run.checkpoint())
    held_out = stages.load_split(stages.find_datasets(run.config())[0], 'test', 64)
    with torch.no_grad():
        predicted = model.predict(model.data_preprocessor({'inputs': held_out.images})['inputs'])
    right = [int(sample.pred_label) == int(label) for sample, label in zip(predicted, held_out.labels, strict=True)]
    # A classifier's own accuracy counts as its fine-tuning.
    assert supervised.values['finetune'][0] == pytest.approx(100 * np.mean(right))


def test_a_run_that_another_process_is_at_is_left_alone(cifar: None, tmp_path: Path) -> None:
    run = job(tmp_path, 'untrained')
    run.folder.mkdir(parents=True)
    with stages.claim(run.folder / '.lock') as claimed:
        assert claimed
        assert not run_stages(run)
    assert run.result('probe') is None
    assert run_stages(run)
    assert run.result('probe') is not None


@pytest.mark.slow
def test_all_runs_within_a_limit(cifar: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [job(tmp_path, 'raw-pixels'), job(tmp_path, 'square-16'), job(tmp_path, 'untrained')]
    jobs[1] = jobs[1]._replace(protocol=PROTOCOLS['smoke']._replace(epochs=10**5, finetune_epochs=0))
    written = []
    incomplete = run_all(jobs, 0.2, lambda: written.append([run.result('probe') is not None for run in jobs]))
    assert written == [[True, False, False]], 'after every stage'
    assert len(incomplete) == 1
    assert incomplete[0].startswith('square-16, seed 0')
    assert 'knn' in capsys.readouterr().out
    assert find_whole(jobs[1].folder / 'pretrain').name == 'interrupted.pth'
    step = read_checkpoint(find_whole(jobs[1].folder / 'pretrain'))['meta']['iter']
    run_all(jobs, 0.2, lambda: None)
    assert read_checkpoint(find_whole(jobs[1].folder / 'pretrain'))['meta']['iter'] > step > 0, 'continued'


@pytest.mark.parametrize('seconds', [0.2, None])
def test_a_limit_of_time(seconds: float | None) -> None:
    with pytest.raises(OutOfTimeError) if seconds else nullcontext(), time_limit(seconds):
        time.sleep(0.5)
    with pytest.raises(SystemExit), time_limit(seconds):
        raise SystemExit(143)


def test_fine_tunings_of_another_length_are_results_of_their_own(tmp_path: Path) -> None:
    run = job(tmp_path)
    run.folder.mkdir(parents=True)
    (run.folder / 'finetune-2e.json').write_text('{"accuracy": 50.0}')
    assert run.result('finetune') == {'accuracy': 50.0}
    assert run._replace(protocol=run.protocol._replace(finetune_epochs=5)).result('finetune') is None
    assert run._replace(protocol=run.protocol._replace(finetune_epochs=None)).name('finetune') == 'finetune'


def measured(name: str, *linear: float) -> Measured:
    return Measured(Row(name, name), {'linear': dict(enumerate(linear)), 'knn': {}, 'finetune': {}}, {})


@pytest.mark.parametrize(
    ('worse', 'better', 'words'),
    [
        ((50, 51, 52), (54, 55, 56), 'yes'),
        ((54, 55, 56), (50, 51, 52), 'no: the other way round'),
        ((50, 51, 52), (54, 50, 53), 'cannot be told'),  # one seed says otherwise
        ((50, 51, 52), (50.1, 53, 52.1), 'cannot be told'),  # within the noise
        ((50, 51, 52), (50.1, 51.2, 52.3), 'cannot be told'),  # 3.5 standard errors, which of three seeds is little
        ((50, 51), (54, 55), 'too few seeds'),
    ],
)
def test_words_about_an_order(worse: tuple, better: tuple, words: str) -> None:
    found = compare_rows(measured('a', *worse), measured('b', *better), 'linear')
    assert (found['worse'], found['better'], found['as_in_the_paper']) == ('a', 'b', words)
    differences = np.subtract(better, worse)
    assert found['difference'] == pytest.approx(differences.mean(), abs=0.005)
    assert found['standard_error'] == pytest.approx(stats.sem(differences), abs=0.005)


@pytest.mark.parametrize('seed', range(7))
def test_a_difference_counts_where_a_paired_t_test_and_all_signs_agree(seed: int) -> None:
    rng = np.random.default_rng(seed)
    worse, better = rng.normal(50, 1, 3 + seed), rng.normal(51.5, 1, 3 + seed)
    expected = stats.ttest_rel(better, worse).pvalue < 0.05 and (better > worse).all()
    found = compare_rows(measured('a', *worse), measured('b', *better), 'linear')
    assert (found['as_in_the_paper'] == 'yes') == expected


def test_table_is_written_for_people_and_programs(tmp_path: Path) -> None:
    origin = {'commit': 'abc1234', 'hardware': 'a processor', 'gpus': [], 'cores': 2}
    rows = []
    for row, values in zip(TABLES[2].rows, ((50.0, 51.0, 52.0), (60.0, 61.5, 63.0)), strict=True):
        pretrain = dict(epochs=2, images=40_000, seconds=100.0, threads=1, origin=origin)
        if row.name == 'patch-random':  # results of before have no such key
            pretrain['multiply_adds'] = 2_214_000
        runs = {seed: {'pretrain': pretrain} for seed in range(3)}
        rows.append(Measured(row, {'linear': dict(enumerate(values)), 'knn': {}, 'finetune': {}}, runs))
    write_table(2, TABLES[2], rows, PROTOCOLS['cpu'], 'python tools/reproduce.py --table 2', tmp_path)
    text, content = (tmp_path / 'table2.md').read_text(), json.loads((tmp_path / 'table2.json').read_text())
    assert '| patch-raster | 55.53 | 78.67 | 51.0 ± 1.0 | - | - | 0, 1, 2 | 2 x 40,000 | - | 1.25 | abc1234 |' in text
    assert '| 2 x 40,000 | 2.21 M | 1.25 | abc1234 |' in text
    assert '| patch-raster < patch-random | linear | +10.50 ± 0.29 | +10.00, +10.50, +11.00 | yes |' in text
    assert PROTOCOLS['cpu'].what in text
    assert 'a processor, 1 of 2 cores' in text
    assert content['rows'][1]['paper'] == {'linear': 75.53, 'finetune': 87.52}
    assert content['rows'][1]['ours']['linear'] == {'0': 60.0, '1': 61.5, '2': 63.0}
    assert content['orders']['linear'][0]['as_in_the_paper'] == 'yes'


def test_rows_that_were_not_run_say_so(tmp_path: Path) -> None:
    assert compare_rows(measured('a', 50.0), measured('b'), 'linear') is None
    rows = [measure(row, []) for row in TABLES[7].rows]
    write_table(7, TABLES[7], rows, PROTOCOLS['paper'], 'command', tmp_path)
    text = (tmp_path / 'table7.md').read_text()
    assert '| CIFAR10: DINO | 89 | 94.4 | - | - | - | not run | - | - | - | - |' in text
    assert 'claim of the paper' not in text
