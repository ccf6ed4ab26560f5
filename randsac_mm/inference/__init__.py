"""Features of image files, and segmentation maps and instance masks by a model that was trained in mmseg or mmdet."""

from .embedding import embed_files, load
from .paths import find_images
from .predictor import Detected, Faulty, Predictor, Segmented

__all__ = ['Detected', 'Faulty', 'Predictor', 'Segmented', 'embed_files', 'find_images', 'load']
