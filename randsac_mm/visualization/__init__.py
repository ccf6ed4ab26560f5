"""Pictures of what a model does and has learned, loss curves, and a page that collects them. They need no display."""

from randsac_mm.datasets import fit_image

from .attention_maps import draw_attention
from .curves import draw_loss_curve
from .principal_components import draw_components
from .rank_loss import draw_loss_by_rank
from .reconstruction import draw_reconstruction
from .serialization_pictures import animate_serialization, draw_serialization, serialize
from .skip_weights import draw_skip_weights

__all__ = [
    'animate_serialization', 'draw_attention', 'draw_components', 'draw_loss_by_rank', 'draw_loss_curve',
    'draw_reconstruction', 'draw_serialization', 'draw_skip_weights', 'fit_image', 'serialize',
]  # fmt: skip
