"""Run the config of a recipe: fit it into memory and time, write it, say what is expected, train, show the result."""

import datetime
import logging
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from randsac_mm.engine import launch
from randsac_mm.engine.time_budget import format_duration, process_seconds
from randsac_mm.engine.work_dir import claim_work_dir, find_checkpoint
from randsac_mm.files import atomic_write
from randsac_mm.visualization.report import make_report
from randsac_mm.visualization.run_log import read_run

from .measure import Measurement, NoMemoryError, measure
from .progress import ProgressHook

_MEASURING = 20.0, 0.08  # most seconds, and share of the time
_LEAST, _ENOUGH = 10, 100  # steps: with fewer a time is too short, or batches are too large
_SMALL_BATCH = 4
_END = 2.0  # seconds to end a process without a page
_PROBES = 0.15  # share of the training for all of its twelve probes
_PAGE = 0.05  # share of the time for the images of the page, 8 to 128
# What this process took to import everything; the page of a run and the end of the process take about as much.
_IMPORTS = min(30.0, time.process_time())


def begin_run(run: Path) -> None:
    """Raise a ValueError if a work directory contains a run; from now on only warnings are logged."""
    if (run / 'config.py').exists() or find_checkpoint(run) is not None:
        command = f'randsac-mm train {run / "config.py"} --resume'
        raise ValueError(f'{run} contains a run: choose another --out, or continue it by `{command}`')
    MMLogger.get_current_instance().setLevel(logging.WARNING)


def run_recipe(
    config: str, run: Path, seconds: float | None, lines: list[str], next_commands: list[str] | Callable[[], list[str]]
) -> None:
    """Write a config to ``run/config.py`` and train.

    Some lines ``NAME = NUMBER`` of the config, from which all else follows there, are replaced: ``batch_size`` by half
    of it, and again, while memory or time are too small; if it has them, ``probe_images`` by what costs little. With
    ``seconds``: ``max_iters`` by the steps that fit, ``reserve`` by the seconds that the page will take; a
    ``TimeBudgetHook`` of the config sees to the rest. Its ``work_dir`` is ``'{{ fileDirname }}'``.

    Args:
        config: The text of the config.
        run: The work directory.
        seconds: Time from the start of the process to its end; None: as many steps as the config has.
        lines: What was decided and why, to print.
        next_commands: What can be done next, to print at the end; or what returns it then.

    Raises:
        OSError: If the work directory or data cannot be used.
        ValueError: If the work directory contains a run, data are wrong, or the time is too short.
    """
    begin_run(run)
    print('\n'.join(lines), flush=True)
    config, measured, images = _fit(config, run, seconds)
    with claim_work_dir(run):
        with atomic_write(run / 'config.py') as path:
            path.write_text(config, encoding='utf-8')
        cfg = launch.load_config(str(run / 'config.py'), None, str(run), 'none')
        checked = launch.check_data(cfg, 'train', 'val')
        print('\n'.join(_expect(cfg, measured, run, seconds)), flush=True)

        def begin(runner: Any) -> None:
            runner.register_hook(ProgressHook(runner))
            runner.logger.info('\n'.join([*lines, checked]))

        launch.train(cfg, begin)
    next_commands = next_commands() if callable(next_commands) else next_commands
    if cfg.model.type == 'RandSAC':
        page, _ = make_report(read_run(run), {}, loss_images=images)
        with atomic_write(run / 'report.html') as path:
            path.write_text(page, encoding='utf-8')
        next_commands = [f'page of the run: {run / "report.html"}', *next_commands]
    print('\n'.join([f'Done in {format_duration(process_seconds())}. Next:', *(f'  {line}' for line in next_commands)]))


def set_number(config: str, name: str, value: int) -> str:
    """Replace the number in the line ``NAME = NUMBER`` of a config's text, if there is one."""
    return re.sub(rf'^{name} = \d+', f'{name} = {value}', config, count=1, flags=re.MULTILINE)


def _fit(config: str, run: Path, seconds: float | None) -> tuple[str, Measurement, int]:
    """Return the config with the numbers that fit memory and time, what was measured, and images of the page."""
    limit = min(_MEASURING[0], _MEASURING[1] * seconds) if seconds else _MEASURING[0]
    while True:
        cfg = _load(config, run)
        batch = cfg.train_dataloader.batch_size
        try:
            measured = measure(cfg, limit)
            break
        except NoMemoryError:
            if batch == 1:
                raise ValueError('the memory is too small for a step of one image: use a smaller model') from None
            print(f'The memory is too small for {batch} images in a step: {batch // 2} from now on', flush=True)
            config = set_number(config, 'batch_size', batch // 2)
    step, steps = measured.step, measured.steps
    page, reserve = _plan_page(step / batch, seconds) if cfg.model.type == 'RandSAC' else (0, _END)
    left = 0.0 if seconds is None else seconds - process_seconds() - measured.start - reserve
    whole = batch
    while seconds and left / step < _ENOUGH and batch > _SMALL_BATCH:
        batch, step = batch // 2, step / 2
    if batch < whole:
        print(f'The time is too short for {_ENOUGH} steps of {whole} images: {batch} images in a step', flush=True)
        config = set_number(config, 'batch_size', batch)
    total = left or measured.steps * measured.step
    probe = re.search(r'^probe_images = (\d+)', config, flags=re.MULTILINE)
    if probe:  # a forward pass is a third of a step, and testing takes half as many images
        fits = int(_PROBES * total / 12 / (1.5 * step / batch / 3))
        config = set_number(config, 'probe_images', max(20, min(int(probe[1]), fits)))
    if seconds:
        steps = int(left / step)
        if steps < _LEAST:
            least = format_duration(seconds - left + 1.05 * _LEAST * step)
            raise ValueError(
                f'--time {format_duration(seconds)} is too short: a step takes {step:.2g} s, and starting, {_LEAST} '
                f'steps and the end {least}: use more, or a smaller model'
            )
        config = set_number(set_number(config, 'max_iters', steps), 'reserve', round(reserve))
    epochs = measured.epochs * steps * batch / (measured.steps * cfg.train_dataloader.batch_size)
    return config, measured._replace(step=step, steps=steps, epochs=epochs), page


def _load(config: str, run: Path) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'config.py')
        path.write_text(config, encoding='utf-8')
        cfg = launch.load_config(str(path), None, str(run), 'none')
    launch.check_data(cfg, 'train', 'val')
    return cfg


def _plan_page(image: float, seconds: float | None) -> tuple[int, float]:
    """Return images and seconds of the page and the end of the process, if a step takes ``image`` seconds for one."""
    begin, worked = time.perf_counter(), time.process_time()
    while time.process_time() - worked < 0.2:
        pass
    slowdown = (time.perf_counter() - begin) / 0.2  # by other processes
    images = 128 if seconds is None else max(8, min(128, int(_PAGE * seconds / image)))
    return images, slowdown * 0.85 * _IMPORTS + 0.4 * (
        images + 25
    ) * image  # without gradients; 25 for the other pictures


def _expect(cfg: Config, measured: Measurement, run: Path, seconds: float | None) -> list[str]:
    batch, rate = cfg.train_dataloader.batch_size, cfg.optim_wrapper.optimizer.lr
    left = measured.start + measured.steps * measured.step
    left = left if seconds is None else seconds - process_seconds()
    end = datetime.datetime.now() + datetime.timedelta(seconds=left)
    return [
        f'Training   {measured.steps:,} steps of {batch} images, {measured.epochs:,.1f} epochs, lr {rate:.2g}',
        f'Expected   {measured.step:.3g} s a step: until {end:%H:%M} ({format_duration(left)}); '
        f'{measured.memory / 2**30:.1f} GB of memory',
        f'Config     {run / "config.py"}',
    ]
