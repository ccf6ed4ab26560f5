"""Pictures of serializations, reconstructions and loss curves. They need no display."""

from .curves import draw_loss_curve, read_losses
from .loading import dataset_inputs, fit_image, load_weights, sample_photo, to_inputs, to_pixels
from .reconstruction import PIXEL_NOTE, TARGET_NOTE, Reconstructed, draw_reconstruction, reconstruct
from .serialization import Serialized, animate_serialization, draw_serialization, serialize

__all__ = [
    'PIXEL_NOTE',
    'TARGET_NOTE',
    'Reconstructed',
    'Serialized',
    'animate_serialization',
    'dataset_inputs',
    'draw_loss_curve',
    'draw_reconstruction',
    'draw_serialization',
    'fit_image',
    'load_weights',
    'read_losses',
    'reconstruct',
    'sample_photo',
    'serialize',
    'to_inputs',
    'to_pixels',
]
