"""Principal components of patch features as colours: alike features get alike colours.

B images, N tokens, D dims.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from randsac_mm.models import RandSAC, RandSACViT
from randsac_mm.models.backbone import layer_indices

from .figures import panel_figure, save_figure, show
from .inputs import evaluating, to_pixels

_SIDE = 168  # pixels of a panel's longer side
_ENOUGH = 4  # images from which a mean over images characterises a place
_NOTE = (
    'First three principal components of the patch features of all these images together, as red, green and blue; '
    'alike colours mean alike features, across images too.'
)
_PLACE_NOTE = 'Right: after subtracting the mean over these images at every place, as features also encode the place.'


def patch_features(backbone: RandSACViT, images: Tensor, layer: int = -1) -> Tensor:
    """Compute the output (B, N, D) of one layer, unmasked, for normalised images (B, C, H, W).

    Layers count from 0, negative ones from the end. The last one's output is normalised.
    """
    (wanted,) = layer_indices('layer', layer, backbone.num_layers)
    found: list[Tensor] = []
    with evaluating(backbone), backbone.layers[wanted].register_forward_hook(lambda *args: found.append(args[-1])):
        backbone(images)
        last = wanted == backbone.num_layers - 1 and backbone.final_norm
        return (backbone.ln1(found[0]) if last else found[0]).float()


def principal_components(features: Tensor) -> tuple[Tensor, PCA]:
    """Return what each token has of the first three components (B, N, 3) of features (B, N, D), and the PCA."""
    tokens = features.flatten(0, -2).double().numpy()
    pca = PCA(3, svd_solver='full').fit(tokens)
    return torch.from_numpy(pca.transform(tokens)).float().unflatten(0, features.shape[:-1]), pca


def component_colours(scores: Tensor) -> np.ndarray:
    """Stretch each of three components (B, N, 3) over a colour from 0 to 255: red, green, blue, uint8."""
    values = scores.numpy()
    low, high = np.percentile(values, (1, 99), axis=(0, 1))  # the rest is clipped
    return (np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)


def share_of_place(features: Tensor) -> float:
    """Return the share of the variance of features (B, N, D) that the mean over images at each place has."""
    centred = features - features.mean((0, 1))
    return (centred.mean(0).square().sum() * len(features) / centred.square().sum()).item()


def draw_components(model: RandSAC, inputs: Tensor, path: str | Path, layer: int = -1) -> dict:
    """Draw normalised images (B, C, H, W) beside the principal components of their patch features, as a PNG.

    From four images on there is a third panel, of components after the mean over images was subtracted at every place:
    a small model's strongest components often only encode where a patch is. For ``layer`` see :func:`patch_features`.

    Returns:
        Explained variance and a ``note``, in plain values.

    Raises:
        ValueError: If there is no such layer.
    """
    grid = model.backbone.grid(*inputs.shape[2:])
    features = patch_features(model.backbone, inputs.to(next(model.parameters()).device), layer).cpu()
    scores, pca = principal_components(features)
    shares = pca.explained_variance_ratio_.tolist()
    note = f'{_NOTE} They explain {", ".join(f"{share:.1%}" for share in shares)} of the variance.'
    shown, result = {'components': scores}, {'explained_variance': shares}
    if len(inputs) >= _ENOUGH:
        shown['mean of the place subtracted'], _ = principal_components(features - features.mean(0))
        result['variance_of_mean_of_place'] = share_of_place(features)
        note = f'{note} {_PLACE_NOTE}'
    pairs = min(2, len(inputs))  # images in a row
    figure, axes = panel_figure(-(-len(inputs) // pairs), pairs * (1 + len(shown)), grid, _SIDE, note)
    panels = axes.reshape(-1, 1 + len(shown))
    for i, image in enumerate(to_pixels(model, inputs)):
        show(panels[i, 0], image, grid, 'image')
    for j, (name, of_kind) in enumerate(shown.items(), 1):
        for i, colours in enumerate(component_colours(of_kind).reshape(-1, *grid, 3)):
            show(panels[i, j], colours, grid, name, interpolation='nearest')
    save_figure(figure, path, note)
    return result | {'note': note}
