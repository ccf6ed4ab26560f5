"""An encoder for other libraries, each export proven on real images; other libraries are imported only when used."""

from .encoder import Encoder, Features
from .images import real_images
from .proof import Proof, VerificationError, prove
from .run import Exported, export_encoder
from .source import Source, read_source
from .targets import TARGETS

__all__ = [
    'TARGETS',
    'Encoder',
    'Exported',
    'Features',
    'Proof',
    'Source',
    'VerificationError',
    'export_encoder',
    'prove',
    'read_source',
    'real_images',
]
