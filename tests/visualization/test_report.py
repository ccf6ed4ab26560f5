"""The page of a run: everything on it, nothing from elsewhere, and plain words where something is missing."""

import json
import shutil
import subprocess

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from visualization.checks import Page
from visualization.work_dirs import losses, write_session

import randsac_mm  # noqa: F401  registers the models
from randsac_mm.visualization.report import make_report
from randsac_mm.visualization.run_log import read_run

CHROMIUM = shutil.which('chromium') or shutil.which('google-chrome')
NASTY = '<script>alert("x")</script> & \'quoted\' $\\frac{ {{ 7 * 7 }}'
PARTS = ['Predictions', 'Loss by rank', 'Attention', 'Principal components', 'Skip weights']


def write_run(root, work_dir, checkpoint=True, config='randsac_vit_digits', **session):
    """Write a work directory of the digits, with an untrained model."""
    entries = [{**entry, 'images_per_s': 100.0 + entry['step']} for entry in losses((10, 3), (20, 1.5))]
    probes = [{'probe/knn': 30.0 + i, f'probe/{NASTY}': 40.0 + i, 'probe/seconds': 0.5, 'step': i} for i in (1, 2)]
    write_session(work_dir, '20261121_010000', [*entries, *probes], **session)
    cfg = Config.fromfile(root / 'configs' / 'smoke' / f'{config}.py')
    text = f'{cfg.dump()}\nnote = {NASTY!r}\n'
    (work_dir / '20261121_010000' / 'vis_data' / 'config.py').write_text(text)
    if checkpoint:
        torch.manual_seed(0)
        meta = {'epoch': 2, 'experiment_name': 'x_20261121_010000', 'mmengine_version': '0.10.12' + 'ab' * 20}
        state = MODELS.build(cfg.model).state_dict()
        torch.save({'state_dict': state, 'meta': meta}, work_dir / 'epoch_2.pth')
    return read_run(work_dir)


def make_page(run, probes=(), **choices):
    text, missing = make_report(run, dict(probes), **choices)
    page = Page(text)
    assert page.faults == []
    return page, missing


def test_page_of_a_log_alone_escapes_every_name(root, tmp_path):
    work_dir = tmp_path / '<b>"run"&'
    origin = {'command': f'python tools/train.py {NASTY}', 'folder': NASTY, 'commit': 'abc1234', 'gpus': ['A', 'B']}
    run = write_run(root, work_dir, checkpoint=False, origin=json.dumps(origin))
    scores = {'accuracy_percent': {NASTY: {'knn': 51.25}, 'raw pixels': {'knn': 33, 'linear': None}}, 'seed': 4}
    page, missing = make_page(run, {'probe.json': scores, 'other.json': {'mIoU': 41.25, 'classes': [{'a & b': 1}]}})
    assert list(missing) == PARTS
    assert page.text.count(NASTY) == 4, 'folder, command, online probe, row of a table'
    assert repr(NASTY) in page.text, 'in the config'
    for words in (
        '<b>"run"&: what was learned', 'python tools/train.py', 'abc1234', 'A, B', 'Last logged loss', '1.5000', '115',
        'Online probe, knn', '42.0 %', '51.25', 'none', 'seed', 'mIoU', '41.25', 'a & b', 'images per second',
        'seconds per online probe', "type='RandSAC'",
    ):  # fmt: skip
        assert words in page.text, words
    sources = [attributes['src'] for name, attributes in page.tags if name == 'img']
    assert len(sources) == 4, 'loss, learning rate, speed, online probe'


def test_missing_pieces_are_named(root, tmp_path):
    write_session(tmp_path / 'empty', '20261121_010000', [])
    page, missing = make_page(read_run(tmp_path / 'empty'))
    assert all('checkpoint' in why for why in missing.values())
    for words in ('no config or no checkpoint', 'No loss was logged', 'no images_per_s', 'is not recorded'):
        assert words in page.text, words
    run = write_run(root, tmp_path / 'broken')
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:2000])
    page, missing = make_page(read_run(tmp_path / 'broken'))
    assert all('truncated' in why for why in missing.values())
    assert page.text.count('truncated') == len(PARTS)


def test_without_the_data_set_skip_connections_are_still_shown(root, tmp_path):
    options = {'train_dataloader.dataset': dict(_delete_=True, type='PreparedCIFAR10', data_root='/nowhere')}
    _, missing = make_page(write_run(root, tmp_path), options=options)
    assert list(missing) == PARTS[:-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'why'),
    [
        ('randsac_vit_digits', None),
        ('randsac_vit_blob_digits', 'neck.skip=False'),
        ('two-stream_vit_digits', 'TwoStreamRandSAC'),
    ],
)
def test_pictures_of_every_kind_of_model(root, tmp_path, config, why):
    page, missing = make_page(write_run(root, tmp_path, config=config), num=2)
    assert list(missing) == ([] if why is None else ['Skip weights'])
    assert why is None or why in page.text
    pictures = [name for name, _ in page.tags].count('img')
    assert pictures == 9 + (why is None), '4 curves, predictions, ranks, two of attention, features, skip connections'
    assert 'ab' * 20 in page.text, 'the commit that mmengine wrote into the checkpoint'
    assert 'predicts pixels directly' in page.text


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason='needs Chromium; the parser checks the page everywhere')
def test_page_in_a_browser(root, tmp_path):
    """The page forbids scripts; a copy allows one, which measures whether anything is wider than a narrow screen."""
    text, _ = make_report(write_run(root, tmp_path / 'run'), {}, num=2)
    script = (
        '<script>addEventListener("load", () => { const root = document.documentElement; document.title = '
        '`${root.scrollWidth - root.clientWidth} too wide`; })</script></body>'
    )
    page = tmp_path / 'page.html'
    text = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    page.write_text(text.replace('</body>', script))
    options = ['--headless', '--no-sandbox', '--disable-gpu', '--window-size=500,2000', '--enable-logging=stderr']
    command = [CHROMIUM, *options, f'--user-data-dir={tmp_path / "profile"}', '--dump-dom', page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert 'CONSOLE' not in done.stderr
    assert '<title>0 too wide</title>' in done.stdout
