"""Judging a frozen encoder: features, nearest neighbours, linear probe."""

from .features import extract_features
from .knn import knn_accuracy, knn_predict
from .linear import LinearProbe, fit_linear_probe, linear_probe_accuracy

__all__ = [
    'LinearProbe',
    'extract_features',
    'fit_linear_probe',
    'knn_accuracy',
    'knn_predict',
    'linear_probe_accuracy',
]
