"""One static HTML page of a run: curves, speed, probes, pictures, config and origin, by one jinja2 template."""

import base64
import functools
import io
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from mmengine.config import Config
from torch import Tensor

from randsac_mm.engine.launch import load_config
from randsac_mm.engine.origin import describe_origin
from randsac_mm.models import RandSAC

from .attention_maps import draw_attention
from .command import build_model
from .curves import plot_curves, smoothed
from .inputs import choose_images
from .principal_components import draw_components
from .rank_loss import draw_loss_by_rank, with_error
from .reconstruction import draw_reconstruction
from .run_log import RunLog
from .skip_weights import draw_skip_weights

_ATTENTION_IMAGES = 2


def make_report(
    run: RunLog,
    probes: dict,
    images: Sequence[Path] = (),
    num: int = 4,
    seed: int = 0,
    options: Sequence[str] = (),
    loss_images: int = 128,
) -> tuple[str, dict[str, str]]:
    """Make the page of a run. What cannot be shown is named on it, with the reason.

    ``probes`` are results of ``tools/evaluate.py`` by file name, ``options`` are ``--cfg-options``. For ``images``,
    ``num`` and ``seed``, which is that of the serializations too, see :func:`choose_images`. The loss by rank is that
    of ``loss_images``, which take most of the time.

    Returns:
        The HTML document, and why pictures are missing, by heading.
    """
    parts = _draw_parts(run, images, num, seed, options, loss_images)
    context = dict(run=run, parts=parts, probes=probes, chart=_chart, smoothed=smoothed, about=describe_origin())
    html = load_template('report.html').render(context)
    return html, {title: part['missing'] for title, part in parts.items() if 'missing' in part}


def load_template(name: str) -> jinja2.Template:
    """Return a page of this folder, with our filters; values are escaped, and missing ones are errors."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    as_json = functools.partial(json.dumps, indent=2)
    page.filters |= dict(mean=statistics.fmean, median=statistics.median, json=as_json, with_error=with_error)
    return page.get_template(name)


def _draw_parts(
    run: RunLog, images: Sequence[Path], num: int, seed: int, options: Sequence[str], loss_images: int
) -> dict[str, dict]:
    """Draw every part: its result and its pictures, or why it is missing."""

    @functools.cache
    def load_model() -> tuple[RandSAC, Config]:
        if run.config is None or run.checkpoint is None:
            raise FileNotFoundError(f'{run.work_dir} contains no config or no checkpoint yet')
        cfg = load_config(str(run.config), options, None, 'none')
        return build_model(cfg, run.checkpoint), cfg

    @functools.cache
    def load_images() -> Tensor:
        return choose_images(*load_model(), images, max(num, loss_images), seed)[0]

    parts = {}
    for title, draw, count, choices in (
        ('Predictions', draw_reconstruction, num, {'seed': seed}),
        ('Loss by rank', draw_loss_by_rank, loss_images, {'seed': seed}),
        ('Attention', draw_attention, _ATTENTION_IMAGES, {}),
        ('Principal components', draw_components, num, {}),
        ('Skip weights', draw_skip_weights, 0, {}),
    ):
        with tempfile.TemporaryDirectory() as folder:
            try:
                inputs = [load_images()[:count]] if count else []
                result = draw(load_model()[0], *inputs, Path(folder, 'picture.png'), **choices)
                pictures = [data_uri(file.read_bytes()) for file in sorted(Path(folder).iterdir())]
                parts[title] = {'result': result, 'pictures': pictures}
            except Exception as error:  # whatever is wrong with checkpoint or data, the rest of the page is of use
                kind = '' if isinstance(error, (FileNotFoundError, ValueError)) else f'{type(error).__name__}: '
                parts[title] = {'missing': f'{kind}{error}'}
    return parts


def _chart(*args: Any) -> str:
    picture = io.BytesIO()
    plot_curves(*args).savefig(picture)
    return data_uri(picture.getvalue())


def data_uri(png: bytes) -> str:
    """Return a PNG as the address of a picture in a page."""
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'
