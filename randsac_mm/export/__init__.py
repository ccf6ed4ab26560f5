"""An encoder for other libraries, each export proven on real images; other libraries are imported only when used."""

from .encoder import Encoder, Features, read_encoder
from .run import TARGETS, Exported, VerificationError, export_encoder, prove
from .sample_images import real_images

__all__ = [
    'TARGETS',
    'Encoder',
    'Exported',
    'Features',
    'VerificationError',
    'export_encoder',
    'prove',
    'read_encoder',
    'real_images',
]
