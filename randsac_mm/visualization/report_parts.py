"""The pictures of a report: each is made, or what hinders it is said in a sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from randsac_mm.models import RandSAC

from .attention import draw_attention
from .features import draw_features
from .rank_loss import Tally, draw_loss_by_rank, loss_by_rank
from .reconstruction import PIXEL_NOTE, TARGET_NOTE, draw_reconstruction
from .serialization import serialize
from .skip_weights import draw_skip_weights

_ATTENTION_IMAGES = 3
_MOST_ROWS = 40


class Part(NamedTuple):
    """Hold one part of a report.

    Attributes:
        title: Its heading.
        text: What is to be seen.
        pictures: Files, and for each what a person who cannot see it should know.
        caption: Of the table.
        head: Headings of the table's columns.
        rows: Its rows; no table if there are none.
        missing: Why there is nothing to show; None if there is.
    """

    title: str
    text: str = ''
    pictures: tuple[tuple[Path, str], ...] = ()
    caption: str = ''
    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    missing: str | None = None


class Material(NamedTuple):
    """Hold what the parts of a report are made of.

    Attributes:
        model: The model with its weights.
        inputs: Normalised images (n, C, H, W): all for the loss by rank, the first few for pictures.
        num: How many are few.
        seed: Of the serializations.
        folder: Where picture files go.
    """

    model: RandSAC
    inputs: Tensor
    num: int
    seed: int
    folder: Path


def reconstruction_part(material: Material) -> Part:
    """Draw what the model predicts."""
    model, inputs = material.model, material.inputs[: material.num]
    drawn = serialize(model.data_preprocessor.serialization, len(inputs), model.backbone.grid_of(inputs), material.seed)
    path = material.folder / 'reconstruction.png'
    done = draw_reconstruction(model, inputs, path, drawn.rank, drawn.groups)
    note = TARGET_NOTE if done.uses_target else PIXEL_NOTE
    alt = (
        f'{len(inputs)} rows, one for each image: the original, its serialization with numbered segments, the '
        'predictions in their order, and the first segment together with all predictions.'
    )
    return Part('What it predicts', note, ((path, alt),))


def rank_part(material: Material) -> Part:
    """Measure and draw the loss by rank."""
    result = loss_by_rank(material.model, material.inputs, seed=material.seed)
    path = draw_loss_by_rank(result, material.folder / 'loss_by_rank.png')
    space = 'normalised patches' if result.norm_pix else 'normalised images'
    text = (
        f'Mean squared error of {space} over {len(material.inputs)} images, {result.serializations} serializations of '
        f'each: {_with_error(result.overall, 0)}. Predicting 0 everywhere would give {result.of_zero:.4f}. Errors are '
        'standard errors, with an image as one observation.'
    )
    ranks = result.by_rank
    rows = tuple(
        (str(rank), _with_error(ranks, i), f'{ranks.tokens[i]:,}', f'{ranks.images[i]:,}')
        for i, rank in enumerate(ranks.first[:_MOST_ROWS])
    )
    hardest = max(range(len(ranks.mse)), key=ranks.mse.__getitem__)
    easiest = min(range(len(ranks.mse)), key=ranks.mse.__getitem__)
    alt = (
        f'Two curves of the error: by rank of the segment, greatest at rank {ranks.first[hardest]} '
        f'({ranks.mse[hardest]:.4f}) and least at rank {ranks.first[easiest]} ({ranks.mse[easiest]:.4f}); and by the '
        'number of tokens seen before.'
    )
    more = f', the first {_MOST_ROWS} of {len(ranks.first)}' if len(ranks.first) > _MOST_ROWS else ''
    head = ('rank', 'mean squared error', 'tokens', 'images')
    return Part('Which segments are hard', text, ((path, alt),), f'Loss by rank{more}', head, rows)


def attention_part(material: Material) -> Part:
    """Draw where tokens look."""
    inputs = material.inputs[: min(material.num, _ATTENTION_IMAGES)]
    path, heads = material.folder / 'attention.png', material.folder / 'attention_heads.png'
    result = draw_attention(material.model, inputs, path)
    draw_attention(material.model, inputs[:1], material.folder / 'one.png', heads_path=heads)
    found = result['statistics']
    rows = tuple(
        (str(i + 1), f'{_mean(distance):.2f}', f'{_mean(entropy):.2f}')
        for i, (distance, entropy) in enumerate(zip(found['mean_distance'], found['entropy'], strict=True))
    )
    row, column = result['query']
    text = (
        'Attention of the plain encoder, without any mask, as it is used after pre-training. Bright: much attention; '
        'captions give the maximum in multiples of even attention. Rows "query": where the framed token in row '
        f'{row + 1}, column {column + 1} looks; "all queries": where tokens look on average.'
    )
    alt = f'Heat maps over {len(inputs)} images for layers {", ".join(str(i + 1) for i in result["layers"])}, '
    pictures = (
        (path, f'{alt}averaged over heads, and attention rollout.'),
        (heads, f'{alt}each head by itself, for the first image.'),
    )
    head = ('layer', 'mean distance (tokens)', f'entropy (nats, at most {found["entropy_of_even_attention"]:.2f})')
    return Part('Where it looks', text, pictures, 'How wide layers look, mean over heads', head, rows)


def features_part(material: Material) -> Part:
    """Draw principal components of patch features."""
    inputs = material.inputs[: max(2 * (material.num // 2), 1)]
    path = material.folder / 'features.png'
    result = draw_features(material.model, inputs, path)
    shares = ', '.join(f'{share:.1%}' for share in result['explained_variance'])
    text = f'The first three principal components of the last layer explain {shares} of the variance of its tokens.'
    if 'variance_of_mean_of_place' in result:
        text += (
            f' {result["variance_of_mean_of_place"]:.0%} of the variance is that of the mean over these images at each '
            'place: it tells where a patch is, whatever it shows.'
        )
    alt = f'{len(inputs)} images, each beside a map of its patches in which alike colours mean alike features.'
    return Part('What it holds to be alike', text, ((path, alt),))


def skip_part(model: RandSAC, folder: Path) -> Part:
    """Draw the skip connections; needs no images."""
    path = folder / 'skip_weights.png'
    result = draw_skip_weights(model, path)
    weights = result['weights']
    head = ('encoder layer', *(f'decoder layer {i + 1}' for i in range(len(weights[0]))))
    rows = tuple((str(k + 1), *(f'{w:.3f}' for w in row)) for k, row in enumerate(weights))
    alt = (
        f'Heat map of {len(weights)} encoder layers by {len(weights[0])} decoder layers; the numbers are in the table.'
    )
    return Part('Which layers the decoder reads', result['note'], ((path, alt),), 'Skip connections', head, rows)


def attempt(title: str, make: Callable[[], Part]) -> Part:
    """Make a part; if that fails, a part that says why. A page shows what there is."""
    try:
        return make()
    except Exception as error:
        return Part(title, missing=reason(error))


def reason(error: Exception) -> str:
    """Say what an error says; its kind as well unless it is one of those that are written for people."""
    text = str(error) or 'no further explanation'
    return text if isinstance(error, (FileNotFoundError, ValueError)) else f'{type(error).__name__}: {text}'


def _with_error(tally: Tally, i: int) -> str:
    error = tally.standard_error[i]
    return f'{tally.mse[i]:.4f}' if error is None else f'{tally.mse[i]:.4f} \N{PLUS-MINUS SIGN} {error:.4f}'


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
