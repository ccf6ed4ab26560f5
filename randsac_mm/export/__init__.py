"""An encoder for other libraries, each export verified on real images; other libraries are imported only when used."""

from .encoder import Encoder, read_encoder
from .run import TARGETS, Exported, VerificationError, export_encoder

__all__ = ['TARGETS', 'Encoder', 'Exported', 'VerificationError', 'export_encoder', 'read_encoder']
