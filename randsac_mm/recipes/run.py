"""Write the config of a recipe, measure it, plan its length, and run it."""

from pathlib import Path

from randsac_mm.engine import launch
from randsac_mm.engine.work_dir import claim_work_dir
from randsac_mm.files import atomic_write


def run_recipe(config: str, run: Path, seconds: float | None, lines: list[str], next_commands: list[str]) -> None:
    """Write a config to ``run/config.py`` and train.

    Args:
        config: The text of the config. It has a line ``batch_size = N`` of its own, from which the learning rate
            follows, and, where ``seconds`` is set, one ``max_iters = N``, from which schedules and intervals follow:
            these two are replaced by what fits memory and time. Its ``work_dir`` is ``'{{ fileDirname }}'``.
        run: The work directory.
        seconds: Time for the whole command, from the start of the process; None: as many steps as the config has.
        lines: What was decided and why, to print.
        next_commands: What to do next, to print at the end.

    Raises:
        ValueError: If the folder already contains a run, or the time is too short.
    """
    if (run / 'config.py').exists():
        raise ValueError(f'{run} already contains a run: continue it by `randsac-mm train {run}/config.py --resume`')
    with claim_work_dir(run):
        with atomic_write(run / 'config.py') as path:
            path.write_text(config)
        print('\n'.join(lines))
        cfg = launch.load_config(str(run / 'config.py'), None, str(run), 'none')
        launch.check_data(cfg, 'train', 'val')
        launch.train(cfg)
    print('\n'.join(['', 'Next:', *next_commands]))
