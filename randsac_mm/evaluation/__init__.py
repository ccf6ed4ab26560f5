"""Judging a frozen encoder: features, nearest neighbours, linear probe."""

from .features import extract_features
from .judge import LabelledImages, Scores, evaluate_backbone, judge_features
from .knn import knn_accuracy, knn_predict
from .linear import LinearProbe, fit_linear_probe, fit_ridge, linear_probe_accuracy, ridge_accuracy
from .online import OnlineProbeHook

__all__ = [
    'LabelledImages',
    'LinearProbe',
    'OnlineProbeHook',
    'Scores',
    'evaluate_backbone',
    'extract_features',
    'fit_linear_probe',
    'fit_ridge',
    'judge_features',
    'knn_accuracy',
    'knn_predict',
    'linear_probe_accuracy',
    'ridge_accuracy',
]
