"""One static page for a run: curves, speed, probes, pictures, config, and where it all comes from."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from randsac_mm.engine.launch import load_config
from randsac_mm.engine.origin import describe_origin

from .command import build_model, choose_images
from .html import element, join
from .page import cards, page
from .report_parts import (
    Material,
    Part,
    attempt,
    attention_part,
    features_part,
    rank_part,
    reason,
    reconstruction_part,
    skip_part,
)
from .report_sections import (
    commands_section,
    config_section,
    curves_section,
    origin_section,
    picture_section,
    probe_sections,
    speed_section,
    summary,
)
from .run_log import RunLog

_MAKERS = {
    'What it predicts': reconstruction_part,
    'Which segments are hard': rank_part,
    'Where it looks': attention_part,
    'What it holds to be alike': features_part,
}


def make_parts(
    run: RunLog,
    folder: Path,
    images: Sequence[Path] | None = None,
    num: int = 4,
    loss_images: int = 128,
    seed: int = 0,
    options: dict | None = None,
) -> list[Part]:
    """Make all pictures of a run's checkpoint that can be made; where one cannot, its part says why.

    Args:
        run: The run, with config and checkpoint.
        folder: Where picture files go.
        images: Image files or folders; None: the config's data set.
        num: Number of images that are drawn.
        loss_images: Number of images for the loss by rank.
        seed: Of choice and serializations.
        options: ``--cfg-options``, parsed.

    Returns:
        The parts, in the order of the page.
    """
    title = 'Pictures of what was learned'
    if run.config is None:
        return [Part(title, missing=f'{run.work_dir} holds no config: name it by --config')]
    if run.checkpoint is None:
        return [Part(title, missing=f'{run.work_dir} holds no checkpoint yet, so there is no model to look into')]
    try:
        cfg = load_config(str(run.config), options, None, 'none')
        model = build_model(cfg, run.checkpoint)
    except Exception as error:  # whatever is wrong with it, the rest of the page is of use
        return [Part(title, missing=f'The checkpoint cannot be shown. {reason(error)}')]
    try:
        inputs, _ = choose_images(model, cfg, images, max(num, loss_images), seed)
        material = Material(model, inputs, num, seed, folder)
        parts = [attempt(name, lambda make=make: make(material)) for name, make in _MAKERS.items()]
    except Exception as error:  # a data set that is not on this machine, most often
        parts = [Part(name, missing=f'There are no images to show it with. {reason(error)}') for name in _MAKERS]
    return [*parts, attempt('Which layers the decoder reads', lambda: skip_part(model, folder))]


def build_report(run: RunLog, parts: Sequence[Part], probes: dict[str, Any]) -> str:
    """Write the page.

    Args:
        run: The run.
        parts: Its pictures, whose files still exist.
        probes: Results of probes by file name, from :func:`read_probes`.

    Returns:
        The HTML document, which refers to nothing outside of itself.
    """
    about = describe_origin()
    sections = [
        ('Command', commands_section(run.sessions, about)),
        ('Curves', curves_section(run)),
        ('Speed', speed_section(run.scalars)),
        *probe_sections(run.scalars, probes),
        *((part.title, picture_section(part)) for part in parts),
        ('Where it comes from', origin_section(run)),
        ('Config', config_section(run.config)),
    ]
    lead = join(element('p', f'Pre-training run in {run.work_dir}', class_='soft'), cards(summary(run)))
    foot = element('p', f'Made on {about["started"]} at commit {about["commit"]} by randsac_mm {about["randsac_mm"]}.')
    return page(f'{run.work_dir.resolve().name}: what was learned', lead, sections, foot)


def make_report(run: RunLog, probes: dict[str, Any], **choices: Any) -> tuple[str, list[Part]]:
    """Make pictures in a temporary folder, and the page that holds them.

    Args:
        run: The run.
        probes: See :func:`build_report`.
        choices: Arguments of :func:`make_parts`.

    Returns:
        The HTML document, and the parts, of which some may be missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = make_parts(run, Path(folder), **choices)
        return build_report(run, parts, probes), parts


def read_probes(paths: Sequence[Path]) -> dict[str, Any]:
    """Read results of probes.

    Args:
        paths: JSON files.

    Returns:
        What they hold, by file name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one is no JSON.
    """
    found = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f'--probe {path}: there is no such file')
        try:
            found[str(path)] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f'--probe {path} is no JSON ({error}): give a result of tools/evaluate.py') from error
    return found
