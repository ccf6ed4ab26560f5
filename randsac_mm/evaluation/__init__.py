"""Evaluation of a frozen encoder: features, nearest neighbours, linear probe."""

from .evaluate import Scores, evaluate_backbone, evaluate_features
from .features import extract_features
from .frozen_encoder import FrozenEncoder
from .knn import knn_accuracy, knn_predict
from .labelled_images import LabelledImages
from .linear_probe import linear_probe_accuracy, ridge_accuracy
from .online_probe import OnlineProbeHook

__all__ = [
    'FrozenEncoder',
    'LabelledImages',
    'OnlineProbeHook',
    'Scores',
    'evaluate_backbone',
    'evaluate_features',
    'extract_features',
    'knn_accuracy',
    'knn_predict',
    'linear_probe_accuracy',
    'ridge_accuracy',
]
