"""All judges at once: nearest neighbours and linear probe, of features, of an encoder, of raw pixels."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from .features import extract_features
from .knn import knn_accuracy
from .linear import linear_probe_accuracy

Preprocess = Callable[[Tensor], Tensor]


class LabelledImages(NamedTuple):
    """Hold images (n, C, H, W), pixel values 0 .. 255, and their labels (n,), integers from 0."""

    images: Tensor
    labels: Tensor


class Scores(NamedTuple):
    """Hold accuracies on held-out images, in percent."""

    knn: float
    linear: float


def judge_features(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, l2: float = 1e-3, k: int = 20
) -> Scores:
    """Classify held-out images by their features.

    Args:
        train_x: Features (n, D) to learn from.
        train_y: Their classes (n,), integers from 0.
        test_x: Features (m, D) to classify.
        test_y: Their true classes (m,).
        l2: Strength of the linear probe's penalty, see :func:`fit_linear_probe`.
        k: Number of neighbours, at most n.

    Returns:
        Accuracy of weighted nearest neighbours and of the linear probe.

    Raises:
        ValueError: If sizes do not match, a feature is not finite, or an argument is out of range.
    """
    return Scores(
        knn=knn_accuracy(train_x, train_y, test_x, test_y, k=k),
        linear=linear_probe_accuracy(train_x, train_y, test_x, test_y, l2=l2),
    )


def evaluate_backbone(
    backbone: nn.Module,
    preprocess: Preprocess | None,
    train: LabelledImages,
    test: LabelledImages,
    l2: float = 1e-3,
    k: int = 20,
    batch_size: int = 256,
    bf16: bool = False,
) -> dict[str, float]:
    """Classify held-out images by the averaged tokens of a frozen encoder.

    Args:
        backbone: The encoder, or a whole model whose ``backbone`` it is.
        preprocess: What turns a batch of images into the encoder's input, as its normalisation. None: nothing.
        train: Images to learn from, with their labels.
        test: Images to classify, with theirs.
        l2: Strength of the linear probe's penalty.
        k: Number of neighbours.
        batch_size: Images in a step of the encoder.
        bf16: Whether the encoder computes in bfloat16 where that is safe; the judges never do.

    Returns:
        Accuracies in percent, ``knn`` and ``linear``.

    Raises:
        ValueError: As :func:`extract_features` and :func:`judge_features`.

    Paper:
        Section 5.1 (linear probing of the frozen encoder) and D.3 (average-pooled features).
    """
    encoder = getattr(backbone, 'backbone', backbone)
    train_x, test_x = (
        extract_features(encoder, data.images, batch_size, preprocess, bf16=bf16) for data in (train, test)
    )
    return judge_features(train_x, train.labels, test_x, test.labels, l2, k)._asdict()
