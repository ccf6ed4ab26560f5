"""Pictures of what a model does and has learned, loss curves, and a page that collects them. They need no display."""

from .attention import attention_rollout, attention_statistics, attention_weights, draw_attention
from .curves import draw_loss_curve, read_losses
from .features import Components, draw_features, patch_features, principal_components
from .loading import dataset_inputs, fit_image, load_weights, sample_photo, to_inputs, to_pixels
from .rank_loss import RankLoss, Tally, draw_loss_by_rank, loss_by_rank
from .reconstruction import PIXEL_NOTE, TARGET_NOTE, Reconstructed, draw_reconstruction, reconstruct
from .serialization import Serialized, animate_serialization, draw_serialization, serialize
from .skip_weights import draw_skip_weights, skip_weights

__all__ = [
    'PIXEL_NOTE',
    'TARGET_NOTE',
    'Components',
    'RankLoss',
    'Reconstructed',
    'Serialized',
    'Tally',
    'animate_serialization',
    'attention_rollout',
    'attention_statistics',
    'attention_weights',
    'dataset_inputs',
    'draw_attention',
    'draw_features',
    'draw_loss_by_rank',
    'draw_loss_curve',
    'draw_reconstruction',
    'draw_serialization',
    'draw_skip_weights',
    'fit_image',
    'load_weights',
    'loss_by_rank',
    'patch_features',
    'principal_components',
    'read_losses',
    'reconstruct',
    'sample_photo',
    'serialize',
    'skip_weights',
    'to_inputs',
    'to_pixels',
]
