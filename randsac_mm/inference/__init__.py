"""Segmentation maps and instance masks of image files, by a model that was trained in mmseg or mmdet."""

from .paths import find_images
from .predictor import Detected, Faulty, Predictor, Segmented

__all__ = ['Detected', 'Faulty', 'Predictor', 'Segmented', 'find_images']
