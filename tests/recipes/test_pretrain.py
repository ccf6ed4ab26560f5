"""Contract: a folder becomes a run; its config is the user's, fits memory and time, and repeats the run."""

import itertools
import re
import time

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from randsac_mm.datasets import Digits
from randsac_mm.engine import compile as compiling
from randsac_mm.engine import launch, time_budget
from randsac_mm.engine.time_budget import parse_duration
from randsac_mm.models import RandSAC
from randsac_mm.recipes import measure as measuring
from randsac_mm.recipes import training as running
from randsac_mm.recipes.look import look_at_images, look_at_labels, measure_pixels
from randsac_mm.recipes.measure import Measurement, NoMemoryError
from randsac_mm.recipes.pretrain import pretrain, write_config
from randsac_mm.recipes.rules import decide
from randsac_mm.recipes.training import set_number


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """Handwritten digits as PNG files in a folder for each class."""
    root, data = tmp_path_factory.mktemp('images') / 'digits', Digits('train')
    for i in range(120):
        folder = root / str(int(data.labels[i]))
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.images[i, 0].numpy().astype(np.uint8)).save(folder / f'{i:03}.png')
    return root


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Time few steps, do not compile, draw no page, and call this moment the start of the process."""
    monkeypatch.setattr(measuring, '_SECONDS', 0.0)
    monkeypatch.setattr(compiling, '_missing_compiler', lambda device: 'not in this test')
    monkeypatch.setattr(running, 'make_report', lambda run, probes, **options: (f'page of {run.checkpoint.name}', {}))
    monkeypatch.setattr(running, '_IMPORTS', 0.2)
    monkeypatch.setattr(time_budget, '_START', time.time())


@pytest.fixture
def measured(monkeypatch):
    """Replace measuring and training; ``use(step)``: what a step takes for each image, and how many images fit."""

    def use(seconds, fits=10**6, age=10.0):
        def measure(cfg, limit):
            batch = cfg.train_dataloader.batch_size
            if batch > fits:
                raise NoMemoryError
            return Measurement(seconds * batch, 3.0, 2**30, cfg.train_cfg.max_iters, 5.0)

        monkeypatch.setattr(running, 'measure', measure)
        monkeypatch.setattr(running, 'process_seconds', lambda: age)
        monkeypatch.setattr(running.launch, 'train', lambda cfg, begin: None)
        monkeypatch.setattr(running, 'read_run', lambda run: None)
        monkeypatch.setattr(running, 'make_report', lambda run, probes, **options: ('', {}))
        monkeypatch.setattr(running, '_plan_page', lambda image, seconds: (8, 7.0))

    return use


@pytest.mark.slow
def test_a_folder_becomes_a_run(digits, tmp_path, capsys):
    """The config that was written stays as it is, though mmengine dumps the complete one by the same name."""
    run = tmp_path / 'run'
    pretrain(digits, digits, epochs=1, run=run)
    text = (run / 'config.py').read_text()
    assert text.startswith('# Pre-training on')
    assert 'randsac-mm' in text
    cfg = Config.fromfile(run / 'config.py')
    steps = 120 // 16
    assert (cfg.batch_size, cfg.max_iters, cfg.channels, cfg.img_size) == (16, steps, 1, 8)
    assert (run / f'iter_{steps}.pth').is_file()
    assert (run / 'report.html').read_text() == f'page of iter_{steps}.pth'
    out = capsys.readouterr().out
    for words in ('120 grey images', '4 x 4 patches', '10 classes', f'{steps} steps of 16', 'GB of memory', 'kNN'):
        assert words in out
    assert re.search(rf'randsac-mm embed {run} .*\n.*randsac-mm classify {digits} --from {run}', out)
    with pytest.raises(ValueError, match=rf'randsac-mm train {run}/config.py --resume'):
        pretrain(digits, run=run)


@pytest.mark.slow
def test_the_config_is_one_for_train(digits, tmp_path, run_tool, monkeypatch):
    """It runs again elsewhere, and continues when it is interrupted, to the same weights."""
    run, copy = tmp_path / 'run', tmp_path / 'copy'
    pretrain(digits, epochs=1, run=run)
    copy.mkdir()
    (copy / 'config.py').write_bytes((run / 'config.py').read_bytes())
    loss, steps = RandSAC.loss, itertools.count()
    monkeypatch.setattr(RandSAC, 'loss', lambda *args: loss(*args) if next(steps) < 5 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_tool('train.py', copy / 'config.py')
    assert not (copy / 'iter_7.pth').exists()
    monkeypatch.setattr(RandSAC, 'loss', loss)
    run_tool('train.py', copy / 'config.py', '--resume')
    first, again = (torch.load(path / 'iter_7.pth', weights_only=True)['state_dict'] for path in (run, copy))
    assert all(torch.equal(first[key], again[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('error', 'expected'),
    [
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), NoMemoryError),
        (RuntimeError('DefaultCPUAllocator: not enough memory: you tried to allocate'), NoMemoryError),
        (torch.cuda.OutOfMemoryError('CUDA out of memory'), NoMemoryError),
        (RuntimeError('shapes differ'), RuntimeError),
    ],
)
def test_a_step_without_memory_is_recognised(digits, tmp_path, monkeypatch, error, expected):
    def loss(self, inputs, *args):
        raise error

    monkeypatch.setattr(RandSAC, 'loss', loss)
    (tmp_path / 'config.py').write_text(write_config(look_at_images(digits), decide(look_at_images(digits))))
    with pytest.raises(expected):
        measuring.measure(launch.load_config(str(tmp_path / 'config.py'), None, None, 'none'), 1.0)
    assert [path.name for path in tmp_path.iterdir()] == ['config.py']  # of which nothing is changed


def test_the_batch_is_halved_until_a_step_fits(digits, tmp_path, measured, capsys):
    """The learning rate follows, and so does the number of steps; each attempt is named."""
    measured(1.0, fits=5)
    pretrain(digits, epochs=1, run=tmp_path / 'run')
    cfg = Config.fromfile(tmp_path / 'run' / 'config.py')
    assert (cfg.batch_size, cfg.max_iters, cfg.train_dataloader.batch_size) == (4, 30, 4)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-3 * 4 / 256)
    out = capsys.readouterr().out
    assert '16 images in a step: 8' in out
    assert '8 images in a step: 4' in out


def test_memory_too_small_for_one_image(digits, tmp_path, measured):
    measured(1.0, fits=0)
    with pytest.raises(ValueError, match='memory'):
        pretrain(digits, run=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('image', 'duration', 'batch', 'steps'),
    [
        (0.01, '1m', 16, 250),  # 60 s without 10 of age, 3 of the first step and 7 of the page
        (0.04, '1m', 8, 125),
        (0.25, '1m', 4, 40),
        (0.01, '1h', 16, 22375),
    ],
)
def test_as_many_steps_as_fit(digits, tmp_path, measured, image, duration, batch, steps):
    measured(image)
    pretrain(digits, seconds=parse_duration(duration), run=tmp_path / 'run')
    cfg = Config.fromfile(tmp_path / 'run' / 'config.py')
    assert (cfg.batch_size, cfg.train_cfg.max_iters, cfg.reserve) == (batch, steps, 7)
    assert cfg.custom_hooks == [
        dict(type='TimeBudgetHook', seconds=parse_duration(duration), reserve=7, interval=steps // 10)
    ]
    assert cfg.param_scheduler[1].end == steps


def test_a_time_that_is_too_short_is_refused_with_the_least(digits, tmp_path, measured):
    measured(2.0)
    with pytest.raises(ValueError, match=r'--time 1m is too short.* 10 steps .* 1m 44s'):  # 20 + 1.05 * 10 * 8
        pretrain(digits, seconds=60.0, run=tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_probes_take_a_share_of_the_time(digits, tmp_path, measured):
    """Twelve, each of so many images and half as many, at a third of a step's time for an image."""
    for image, expected in ((0.01, 100), (1e-5, 5000)):
        measured(image)
        pretrain(digits, digits, seconds=60.0, run=tmp_path / str(image))
        cfg = Config.fromfile(tmp_path / str(image) / 'config.py')
        assert cfg.probe_images == expected
        hook = cfg.custom_hooks[0]
        assert (hook.max_train, hook.max_test, hook.by_epoch) == (expected, expected // 2, False)


@pytest.mark.slow
def test_a_run_ends_with_its_time(digits, tmp_path):
    begin = time.time()
    pretrain(digits, digits, seconds=30.0, run=tmp_path / 'run')
    assert time.time() - begin == pytest.approx(27.0, abs=6)
    assert list((tmp_path / 'run').glob('iter_*.pth'))


def test_what_is_in_a_folder(tmp_path):
    for name, size, mode in (('a.png', (40, 30), 'L'), ('b/c.JPG', (70, 50), 'L'), ('d.tiff', (20, 90), '1')):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new(mode, size).save(tmp_path / name)
    (tmp_path / 'broken.png').write_bytes(b'no image')
    images = look_at_images(tmp_path)
    assert images[1:] == (3, 1, 20, 30, 50, True)
    Image.new('RGB', (9, 9)).save(tmp_path / 'e.png')
    assert not look_at_images(tmp_path).grey


@pytest.mark.parametrize('names', [(), ('a.png',)])
def test_folders_of_less_than_two_images_are_refused(tmp_path, names):
    for name in names:
        Image.new('L', (4, 4)).save(tmp_path / name)
    (tmp_path / 'broken.png').write_bytes(b'no image')
    with pytest.raises(ValueError, match=rf'{len(names)} readable images and 1 unreadable'):
        pretrain(tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere'):
        pretrain(tmp_path / 'nowhere')


def test_mean_and_deviation_are_those_of_the_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 5, 7, 3), np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f'{i}.png')
    (tmp_path / 'broken.png').write_bytes(b'no image')
    mean, deviation = measure_pixels(tmp_path, 3)
    assert mean == pytest.approx(pixels.reshape(-1, 3).mean(0), abs=0.01)
    assert deviation == pytest.approx(pixels.reshape(-1, 3).std(0), abs=0.01)


@pytest.mark.slow
def test_labelled_folders(digits, tmp_path):
    assert look_at_labels(digits)[1:] == ('val', tuple('0123456789'))
    for split in ('train', 'test'):
        for name in 'ab':
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(10 if split == 'train' else 1):
                Image.new('L', (4, 4)).save(tmp_path / split / name / f'{i}.png')
    assert look_at_labels(tmp_path)[1:] == ('test', ('a', 'b'))
    (tmp_path / 'train' / 'a' / '0.png').unlink()
    with pytest.raises(ValueError, match=r'--labelled .*19 images'):
        look_at_labels(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'--labelled .*nowhere'):
        look_at_labels(tmp_path / 'nowhere')


def test_only_a_line_of_its_own_is_replaced():
    text = 'x = dict(batch_size = 3)\nbatch_size = 64  # images\nbatch_size_of = 3\n'
    assert set_number(text, 'batch_size', 32) == text.replace('= 64', '= 32')
    assert set_number(text, 'max_iters', 1) == text
