"""Principal components of patch features as colours: what the encoder holds to be alike, is drawn alike.

B images, N tokens, D dims.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from randsac_mm.models import RandSACViT
from randsac_mm.models.options import layer_indices

from .attention import plain_states
from .canvas import beside, captioned, cell_size, enlarge, paragraph, per_pixel, save, stacked
from .loading import evaluating, to_pixels

_SIDE = 168  # pixels of a panel's longer side
_COLOURS = 3
_TAILS = (1, 99)  # percentiles of a component that become 0 and 255; the rest is clipped
_ENOUGH = 4  # images from which a mean over images says something about a place
_NOTE = (
    'First three principal components of the patch features of all these images together, as red, green and blue; '
    'alike colours mean alike features, across images too.'
)
_PLACE_NOTE = (
    ' Right: after the mean over these images was taken off at every place, since features also hold where a patch is.'
)


class Components(NamedTuple):
    """Hold principal components of features.

    Attributes:
        scores: What each token has of each component (B, N, k).
        directions: The components, orthonormal rows (k, D).
        explained: Share of the variance of each component, largest first.
    """

    scores: Tensor
    directions: Tensor
    explained: list[float]


def patch_features(backbone: RandSACViT, images: Tensor, layer: int = -1) -> Tensor:
    """Compute the output of one layer of the plain encoder for every patch.

    Args:
        backbone: The encoder, run in evaluation mode without a mask.
        images: Normalised images (B, C, H, W).
        layer: Which layer, from 0; negative ones count from the end. The last one's output is normalised as in
            :meth:`RandSACViT.forward`.

    Returns:
        Features (B, N, D), tokens in raster order, float32.

    Raises:
        ValueError: If there is no such layer, or the backbone is no plain ViT.
    """
    (wanted,) = layer_indices('layer', layer, backbone.num_layers)
    with evaluating(backbone):
        *_, states = (states for states in plain_states(backbone, images) if states.layer <= wanted)
        last = wanted == backbone.num_layers - 1 and backbone.final_norm
        return (backbone.ln1(states.after) if last else states.after).float()


def principal_components(features: Tensor, count: int = _COLOURS) -> Components:
    """Find the directions of greatest variance over all tokens of all images.

    A direction and its negative are equally good; the one whose largest entry is positive is taken, so that pictures
    repeat.

    Args:
        features: Features (B, N, D).
        count: Number of components k.

    Returns:
        The components.

    Raises:
        ValueError: If there are too few tokens or dims for so many components, or all tokens have the same features.

    Example:
        >>> found = principal_components(torch.tensor([[[0.0, 1.0], [0.0, -1.0], [0.0, 0.0]]]), 1)
        >>> found.directions, found.explained
        (tensor([[0., 1.]]), [1.0])
    """
    tokens = features.flatten(0, -2).double()
    if count > min(len(tokens) - 1, tokens.shape[1]):
        raise ValueError(
            f'{len(tokens)} tokens of {tokens.shape[1]} dims have no {count} principal components: give more images'
        )
    centred = tokens - tokens.mean(0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    variance = singular.square()
    if not variance[0] > 1e-20 * tokens.square().sum():
        raise ValueError('all tokens have the same features: there is no direction of greatest variance')
    directions = directions[:count]
    largest = directions.abs().argmax(1, keepdim=True)
    directions = directions * directions.gather(1, largest).sign() + 0.0  # no negative zeros
    scores = (centred @ directions.T).unflatten(0, features.shape[:-1])
    return Components(scores.float(), directions.float(), (variance[:count] / variance.sum()).tolist())


def component_colours(scores: Tensor) -> np.ndarray:
    """Turn components into colours, each stretched over the whole range.

    Args:
        scores: Three components of tokens (B, N, 3).

    Returns:
        Array (B, N, 3), uint8: first component red, second green, third blue.
    """
    values = scores.numpy()
    low, high = np.percentile(values, _TAILS, axis=(0, 1))
    return (np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)


def draw_features(model: torch.nn.Module, inputs: Tensor, path: str | Path, layer: int = -1) -> dict:
    """Draw images beside the first three principal components of their patch features.

    With four images or more there is a third panel, of components after the mean over images was taken off at every
    place: a small model's strongest components often only tell where a patch is.

    Args:
        model: A pre-training model; its backbone is run in evaluation mode, without a mask.
        inputs: Normalised images (B, C, H, W).
        path: Where the PNG goes.
        layer: Which layer, see :func:`patch_features`.

    Returns:
        Layer and explained variance, in plain values.

    Raises:
        ValueError: If there is no such layer, or there are too few tokens.
    """
    backbone = model.backbone
    grid = backbone.grid_of(inputs)
    features = patch_features(backbone, inputs.to(next(model.parameters()).device), layer).cpu()
    found = principal_components(features)
    kinds = {'components': found}
    result = {
        'layer': layer_indices('layer', layer, backbone.num_layers)[0],
        'explained_variance': found.explained,
        'explained_variance_in_total': sum(found.explained),
    }
    if len(inputs) >= _ENOUGH:
        without = principal_components(features - features.mean(0))
        kinds['mean of the place taken off'] = without
        result['explained_variance_without_mean_of_place'] = without.explained
        spread = (features - features.mean((0, 1))).square().sum()
        result['variance_of_mean_of_place'] = (
            ((features.mean(0) - features.mean((0, 1))).square().sum() * len(inputs)) / spread
        ).item()
    cell = cell_size(grid, _SIDE)
    colours = {name: component_colours(components.scores) for name, components in kinds.items()}
    rows = []
    for i, image in enumerate(to_pixels(model, inputs)):
        panels = [captioned(enlarge(image, grid, cell), 'image', 13)]
        panels += [captioned(per_pixel(c[i], grid, cell), name, 13) for name, c in colours.items()]
        rows.append(beside(panels, gap=8))
    pairs = [beside(rows[i : i + 2], gap=28) for i in range(0, len(rows), 2)]
    shares = ' + '.join(f'{share:.0%}' for share in found.explained)
    note = f'{_NOTE} They explain {shares} of the variance.{_PLACE_NOTE if len(kinds) > 1 else ""}'
    save(stacked([*pairs, paragraph(note, max(pairs[0].width, 480), 14)]), path)
    return result
