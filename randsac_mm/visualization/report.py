"""One static HTML page of a run: curves, speed, probes, pictures, config and origin, by one jinja2 template."""

import base64
import functools
import json
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from mmengine.config import Config
from torch import Tensor

from randsac_mm.engine.launch import load_config
from randsac_mm.engine.origin import describe_origin
from randsac_mm.models import RandSAC

from .attention_maps import draw_attention
from .command import build_model, choose_images
from .curves import curves_svg, smoothed
from .principal_components import draw_components
from .rank_loss import draw_loss_by_rank, with_error
from .reconstruction import draw_reconstruction
from .run_log import RunLog
from .skip_weights import draw_skip_weights

_LOSS_IMAGES = 128
_ATTENTION_IMAGES = 2


def make_report(
    run: RunLog, probes: dict, images: Sequence[Path] = (), num: int = 4, seed: int = 0, options: dict | None = None
) -> tuple[str, dict[str, str]]:
    """Make the page of a run. What cannot be shown is named on it, with the reason.

    Args:
        run: The run.
        probes: Results of probes by file name, see :func:`read_probes`.
        images: Image files or folders; none: the config's data set.
        num: Number of images that are drawn.
        seed: Seed of the choice of images and of the serializations.
        options: ``--cfg-options``, parsed.

    Returns:
        The HTML document, and why pictures are missing, by heading.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = _draw_parts(run, Path(folder), images, num, seed, options)
        html = _render(run=run, parts=parts, probes=probes)
    return html, {title: part['missing'] for title, part in parts.items() if 'missing' in part}


def read_probes(paths: Sequence[Path]) -> dict[str, Any]:
    """Read JSON files, results of ``tools/evaluate.py``, by file name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If one is not JSON.
    """
    found = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f'--probe {path}: there is no such file')
        try:
            found[str(path)] = json.loads(path.read_text())
        except ValueError as error:
            raise ValueError(f'--probe {path} is not JSON ({error}): use a result of tools/evaluate.py') from error
    return found


def _draw_parts(
    run: RunLog, folder: Path, images: Sequence[Path], num: int, seed: int, options: dict | None
) -> dict[str, dict]:
    """Draw every part: its result and its pictures, or why it is missing."""

    @functools.cache
    def config() -> Config:
        if run.config is None or run.checkpoint is None:
            raise FileNotFoundError(f'{run.work_dir} contains no config or no checkpoint yet')
        return load_config(str(run.config), options, None, 'none')

    @functools.cache
    def model() -> RandSAC:
        return build_model(config(), run.checkpoint)

    @functools.cache
    def loaded() -> tuple[RandSAC, Tensor]:
        return model(), choose_images(model(), config(), images, max(num, _LOSS_IMAGES), seed)[0]

    def few(count: int = num) -> tuple[RandSAC, Tensor]:
        return model(), loaded()[1][:count]

    def draw(painter: Callable[..., dict], *names: str) -> dict:
        files = [folder / f'{name}.png' for name in names]
        try:
            result = painter(*files)
            return {'result': result, 'pictures': [_data_uri('image/png', file.read_bytes()) for file in files]}
        except Exception as error:  # whatever is wrong with checkpoint or data, the rest of the page is of use
            return {'missing': _reason(error)}

    return {
        'Predictions': draw(lambda *paths: {'note': draw_reconstruction(*few(), *paths, seed).note}, 'reconstruction'),
        'Loss by rank': draw(lambda *paths: draw_loss_by_rank(*loaded(), *paths, seed), 'loss_by_rank'),
        'Attention': draw(lambda *paths: draw_attention(*few(_ATTENTION_IMAGES), *paths), 'attention', 'heads'),
        'Principal components': draw(lambda *paths: draw_components(*few(), *paths), 'features'),
        'Skip weights': draw(lambda *paths: draw_skip_weights(model(), *paths), 'skip_weights'),
    }


def _reason(error: Exception) -> str:
    """Return the message of an error, with its type unless it is one that is written for people."""
    return str(error) if isinstance(error, (FileNotFoundError, ValueError)) else f'{type(error).__name__}: {error}'


def _render(**context: Any) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    as_json = functools.partial(json.dumps, indent=2)
    environment.filters |= dict(mean=statistics.fmean, median=statistics.median, json=as_json, with_error=with_error)
    context |= dict(chart=_chart, smoothed=smoothed, about=describe_origin())
    return environment.get_template('report.html').render(context)


def _chart(*args: Any) -> str:
    return _data_uri('image/svg+xml', curves_svg(*args).encode())


def _data_uri(kind: str, data: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(data).decode()}'
