"""The page of a run: everything on it, nothing from elsewhere, and plain words where something is missing."""

import json
import shutil
import subprocess

import pytest
import torch
from mmengine.config import Config
from mmpretrain.registry import MODELS
from PIL import Image
from visualization.pages import Page
from visualization.work_dirs import losses, write_session

import randsac_mm  # noqa: F401  registers the models
from randsac_mm.visualization.report import build_report, make_report, read_probes
from randsac_mm.visualization.report_parts import Part
from randsac_mm.visualization.run_log import read_run

NASTY = '<script>alert("x")</script> & \'quoted\''


def write_run(root, work_dir, checkpoint=True, config='randsac_vit_digits', **session):
    """Write a work directory of the digits, with an untrained model."""
    entries = [
        {**entry, 'images_per_s': 100.0 + entry['step'], 'data_share': 0.01} for entry in losses((10, 3), (20, 1.5))
    ]
    probes = [{'probe/knn': 30.0 + i, 'probe/linear': 40.0 + i, 'probe/seconds': 0.5, 'step': i} for i in (1, 2)]
    write_session(work_dir, '20261121_010000', [*entries, *probes], **session)
    cfg = Config.fromfile(root / 'configs' / 'smoke' / f'{config}.py')
    text = f'{cfg.dump()}\nnote = {NASTY!r}\n'
    (work_dir / '20261121_010000' / 'vis_data' / 'config.py').write_text(text)
    if checkpoint:
        torch.manual_seed(0)
        state = MODELS.build(cfg.model).state_dict()
        meta = {'epoch': 2, 'experiment_name': 'x_20261121_010000', 'mmengine_version': '0.10.12' + 'ab' * 20}
        torch.save({'state_dict': state, 'meta': meta}, work_dir / 'epoch_2.pth')
    return read_run(work_dir)


def test_page_of_a_log_alone(root, tmp_path):
    origin = {'command': f'python tools/train.py {NASTY}', 'folder': '/x', 'commit': 'abc1234', 'gpus': ['A', 'B']}
    run = write_run(root, tmp_path, checkpoint=False, origin=json.dumps(origin))
    probe = {'accuracy_percent': {NASTY: {'knn': 51.25}, 'raw pixels': {'knn': 33, 'linear': None}}, 'seed': 4}
    (tmp_path / 'probe.json').write_text(json.dumps(probe))
    (tmp_path / 'other.json').write_text(json.dumps({'mIoU': 41.25, 'classes': [{'a & b': 1}]}))
    Image.new('RGB', (1000, 9), 'red').save(tmp_path / 'a.png')
    shown = Part('Shown', NASTY, ((tmp_path / 'a.png', f'alt {NASTY}'),), 'caption', ('a', 'b'), (('1', '2'),))
    probes = read_probes([tmp_path / 'probe.json', tmp_path / 'other.json'])
    page = Page(build_report(run, [shown, Part('Hidden', missing=f'why: {NASTY}')], probes))
    assert page.faults == []
    assert page.text.count(NASTY) == 4, 'command, text of a part, why another is missing, row of a table'
    assert repr(NASTY) in page.text, 'in the config'
    for words in (
        'python tools/train.py', 'abc1234', 'A, B', '3.11.7 (main)', 'NVIDIA H200', 'Last logged loss', '1.5000', '115',
        'Online probe, linear', '42.0 %', '51.25', 'none', 'seed', 'mIoU', '41.25', 'classes / 0 / a & b', 'why: ',
        'Learning rate', 'images a second', 'seconds for one online probe', "type='RandSAC'",
    ):  # fmt: skip
        assert words in page.text, words
    assert [attributes['alt'] for name, attributes in page.tags if name == 'img'] == [f'alt {NASTY}']
    assert sum(name == 'svg' for name, _ in page.tags) == 4, 'loss, learning rate, speed, online probe'


def test_missing_pieces_are_named(root, tmp_path):
    write_session(tmp_path / 'empty', '20261121_010000', [])
    text, parts = make_report(read_run(tmp_path / 'empty'), {})
    page = Page(text)
    assert page.faults == []
    assert 'holds no checkpoint yet' in parts[0].missing
    for words in (
        'holds no checkpoint yet',
        'No loss was logged yet',
        'holds no images_per_s',
        'not say which command',
    ):
        assert words in page.text, words

    (tmp_path / 'bare').mkdir()
    torch.save({'state_dict': {'a': torch.zeros(1)}}, tmp_path / 'bare' / 'epoch_1.pth')
    text, parts = make_report(read_run(tmp_path / 'bare'), {})
    assert Page(text).faults == []
    assert 'holds no config: name it by --config' in parts[0].missing

    run = write_run(root, tmp_path / 'broken')
    run.checkpoint.write_bytes(run.checkpoint.read_bytes()[:2000])
    text, parts = make_report(read_run(tmp_path / 'broken'), {})
    assert 'The checkpoint cannot be shown' in parts[0].missing
    assert 'the file is truncated' in Page(text).text
    assert Page(text).faults == []

    (tmp_path / 'bad.json').write_text('{')
    with pytest.raises(ValueError, match=r'bad\.json is no JSON'):
        read_probes([tmp_path / 'bad.json'])
    with pytest.raises(FileNotFoundError, match='there is no such file'):
        read_probes([tmp_path / 'none.json'])


def test_losses_that_are_not_finite_are_counted(tmp_path):
    write_session(tmp_path, '20261121_010000', [*losses((10, 5)), '{"loss": NaN, "step": 20, "iter": 20}'])
    page = Page(build_report(read_run(tmp_path), [], {}))
    assert page.faults == []
    assert '1 logged losses are not finite' in page.text


def test_without_the_data_set_skip_connections_are_still_shown(root, tmp_path):
    run = write_run(root, tmp_path)
    options = {'train_dataloader.dataset': dict(type='PreparedCIFAR10', data_root=str(tmp_path / 'nowhere'))}
    text, parts = make_report(run, {}, options=options)
    *others, skip = parts
    assert all('There are no images to show it with' in part.missing for part in others)
    assert skip.missing is None
    assert Page(text).faults == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'why'),
    [
        ('randsac_vit_digits', None),
        ('randsac_vit_blob_digits', 'this model has no skip connections'),
        ('two-stream_vit_digits', 'TwoStreamRandSAC has no skip connections'),
    ],
)
def test_pictures_of_every_kind_of_model(root, tmp_path, config, why):
    run = write_run(root, tmp_path, config=config)
    text, parts = make_report(run, {}, num=2, loss_images=20)
    page = Page(text)
    assert page.faults == []
    assert [part.title for part in parts if part.missing] == ([] if why is None else ['Which layers the decoder reads'])
    assert why is None or why in page.text
    pictures = sum(name == 'img' for name, _ in page.tags)
    assert pictures == 5 + (why is None), 'predictions, ranks, two of attention, features, skip connections'
    assert 'ab' * 20 in page.text, 'the commit that mmengine wrote into the checkpoint'


@pytest.mark.slow
def test_page_in_a_browser(root, tmp_path):
    """Opens in Chromium without a word in its console, and fits a narrow screen; elsewhere the parser must do."""
    run = write_run(root, tmp_path / 'run')
    text, _ = make_report(run, {}, num=2, loss_images=20)
    assert Page(text).faults == []
    browser = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    if browser is None:
        return
    # The page forbids scripts; this copy allows one, that tells whether anything is wider than the screen.
    root_element = 'document.documentElement'
    found = f'${{{root_element}.scrollWidth - {root_element}.clientWidth}} too wide, ${{document.images.length}} images'
    script = f'document.title = `{found}`'
    probe = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'").replace(
        '</body>', f'<script>addEventListener("load", () => {{ {script} }})</script></body>'
    )
    (tmp_path / 'page.html').write_text(text)
    (tmp_path / 'probe.html').write_text(probe)
    options = [
        '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--enable-logging=stderr',
        '--disable-background-networking', '--disable-component-update', '--disable-sync', '--v=0',
        '--window-size=500,2000', f'--user-data-dir={tmp_path / "profile"}',
    ]  # fmt: skip
    picture = tmp_path / 'page.png'
    runs = [
        subprocess.run([browser, *options, *task], capture_output=True, text=True, timeout=120)
        for task in (
            [f'--screenshot={picture}', (tmp_path / 'page.html').as_uri()],
            ['--dump-dom', (tmp_path / 'probe.html').as_uri()],
        )
    ]
    for done in runs:
        assert done.returncode == 0, done.stderr
        assert 'CONSOLE' not in done.stderr
    with Image.open(picture) as shot:
        assert len(shot.convert('RGB').getcolors(1_000_000)) > 50
    assert '<title>0 too wide, 6 images</title>' in runs[1].stdout
