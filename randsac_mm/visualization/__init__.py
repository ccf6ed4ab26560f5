"""Pictures of what a model does and has learned, loss curves, and a page that collects them. They need no display."""

from .attention_maps import attention_rollout, attention_statistics, attention_weights, draw_attention
from .curves import draw_loss_curve
from .inputs import dataset_inputs, evaluating, fit_image, sample_photo, to_inputs, to_pixels
from .principal_components import draw_components, patch_features, principal_components
from .rank_loss import draw_loss_by_rank, loss_by_rank
from .reconstruction import draw_reconstruction, reconstruct
from .serialization_pictures import animate_serialization, draw_serialization, serialize
from .skip_weights import draw_skip_weights, skip_weights

__all__ = [
    'animate_serialization', 'attention_rollout', 'attention_statistics', 'attention_weights', 'dataset_inputs',
    'draw_attention', 'draw_components', 'draw_loss_by_rank', 'draw_loss_curve', 'draw_reconstruction',
    'draw_serialization', 'draw_skip_weights', 'evaluating', 'fit_image', 'loss_by_rank', 'patch_features',
    'principal_components', 'reconstruct', 'sample_photo', 'serialize', 'skip_weights', 'to_inputs', 'to_pixels',
]  # fmt: skip
