"""Principal components of patch features as colours: alike features get alike colours.

B images, N tokens, D dims.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from randsac_mm.models import RandSACViT
from randsac_mm.models.backbone import layer_indices

from .figures import panel_figure, save_figure, show
from .inputs import evaluating, to_pixels

_SIDE = 168  # pixels of a panel's longer side
_TAILS = (1, 99)  # percentiles of a component that become 0 and 255; the rest is clipped
_ENOUGH = 4  # images from which a mean over images characterises a place
_NOTE = (
    'First three principal components of the patch features of all these images together, as red, green and blue; '
    'alike colours mean alike features, across images too.'
)
_PLACE_NOTE = 'Right: after subtracting the mean over these images at every place, as features also encode the place.'


def patch_features(backbone: RandSACViT, images: Tensor, layer: int = -1) -> Tensor:
    """Compute the output (B, N, D) of one layer for normalised images (B, C, H, W), in evaluation mode, unmasked.

    Args:
        backbone: The encoder.
        images: The images.
        layer: Which layer, from 0; negative ones count from the end. The last one's output is normalised.

    Raises:
        ValueError: If there is no such layer.
    """
    (wanted,) = layer_indices('layer', layer, backbone.num_layers)
    found: list[Tensor] = []
    hook = backbone.layers[wanted].register_forward_hook(lambda module, args, output: found.append(output))
    try:
        with evaluating(backbone):
            backbone(images)
            last = wanted == backbone.num_layers - 1 and backbone.final_norm
            return (backbone.ln1(found[0]) if last else found[0]).float()
    finally:
        hook.remove()


def principal_components(features: Tensor, count: int = 3) -> tuple[Tensor, PCA]:
    """Compute the directions of greatest variance over all tokens of all images.

    A direction and its negative are equally good; the largest entry of each is positive, so that pictures repeat.

    Args:
        features: Features (B, N, D).
        count: Number of components k.

    Returns:
        What each token has of each component (B, N, k), and scikit-learn's PCA.

    Raises:
        ValueError: If there are too few tokens or dims for so many components, or all tokens have the same features.
    """
    tokens = features.flatten(0, -2).double().numpy()
    if count > min(len(tokens) - 1, tokens.shape[1]):
        raise ValueError(
            f'{len(tokens)} tokens of {tokens.shape[1]} dims have no {count} principal components: use more images'
        )
    if not tokens.var(0).sum() > 1e-20 * np.square(tokens).mean(0).sum():
        raise ValueError('all tokens have the same features: there is no direction of greatest variance')
    pca = PCA(count, svd_solver='full').fit(tokens)
    largest = np.abs(pca.components_).argmax(1)
    pca.components_ *= np.sign(pca.components_[range(count), largest])[:, None]
    return torch.from_numpy(pca.transform(tokens)).float().unflatten(0, features.shape[:-1]), pca


def component_colours(scores: Tensor) -> np.ndarray:
    """Stretch each of three components (B, N, 3) over a colour from 0 to 255: red, green, blue, uint8."""
    values = scores.numpy()
    low, high = np.percentile(values, _TAILS, axis=(0, 1))
    return (np.clip((values - low) / np.maximum(high - low, 1e-12), 0, 1) * 255).round().astype(np.uint8)


def share_of_place(features: Tensor) -> float:
    """Return the share of the variance of features (B, N, D) that the mean over images at each place has."""
    centred = features - features.mean((0, 1))
    return (centred.mean(0).square().sum() * len(features) / centred.square().sum()).item()


def draw_components(model: torch.nn.Module, inputs: Tensor, path: str | Path, layer: int = -1) -> dict:
    """Draw normalised images (B, C, H, W) beside the principal components of their patch features, as a PNG.

    From four images on there is a third panel, of components after the mean over images was subtracted at every place:
    a small model's strongest components often only encode where a patch is. For ``layer`` see :func:`patch_features`.

    Returns:
        Layer and explained variance, in plain values.

    Raises:
        ValueError: If there is no such layer, or there are too few tokens.
    """
    backbone, grid = model.backbone, model.backbone.grid(*inputs.shape[2:])
    features = patch_features(backbone, inputs.to(next(model.parameters()).device), layer).cpu()
    scores, pca = principal_components(features)
    shown = {'components': scores}
    explained = pca.explained_variance_ratio_
    result = {'layer': layer_indices('layer', layer, backbone.num_layers)[0], 'explained_variance': explained.tolist()}
    result['explained_variance_in_total'] = explained.sum()
    if len(inputs) >= _ENOUGH:
        shown['mean of the place subtracted'], pca = principal_components(features - features.mean(0))
        result['explained_variance_without_mean_of_place'] = pca.explained_variance_ratio_.tolist()
        result['variance_of_mean_of_place'] = share_of_place(features)
    note = f'{_NOTE} They explain {explained.sum():.0%} of the variance. {_PLACE_NOTE if len(shown) > 1 else ""}'
    pairs = 1 if len(inputs) == 1 else 2  # images in a row
    figure, axes = panel_figure(-(-len(inputs) // pairs), pairs * (1 + len(shown)), grid, _SIDE, note)
    for panel in axes.flat:
        panel.set_axis_off()
    panels = axes.reshape(-1, 1 + len(shown))
    colours = {name: component_colours(of_kind).reshape(-1, *grid, 3) for name, of_kind in shown.items()}
    for i, image in enumerate(to_pixels(model, inputs)):
        show(panels[i, 0], image, grid, 'image')
        for panel, (name, of_kind) in zip(panels[i, 1:], colours.items(), strict=True):
            show(panel, of_kind[i], grid, name, interpolation='nearest')
    save_figure(figure, path, note)
    return result
