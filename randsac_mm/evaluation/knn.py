"""Weighted nearest neighbours: the evaluation that has nothing to train."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .features import check_features

_MAX_SIMILARITIES = 2**25  # in a step: 128 MiB


@torch.no_grad()
def knn_predict(train_x: Tensor, train_y: Tensor, test_x: Tensor, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Classify test features by a vote of the k nearest training features.

    Nearness is cosine similarity s, and a vote weighs exp(s / temperature), as usual since Wu et al. (2018). Of equally
    near features those that come first are taken, and the class with the largest sum wins, the lower one in a tie.

    Args:
        train_x: Features (n, D) to search.
        train_y: Their classes (n,), integers from 0.
        test_x: Features (m, D) to classify, on the same device.
        k: Number of neighbours, 1 to n.
        temperature: The smaller, the more the nearest ones count; positive.

    Returns:
        Predicted classes (m,), int64.

    Raises:
        ValueError: If k is not from 1 to n.
    """
    if not 1 <= k <= len(train_x):
        raise ValueError(f'k={k} must be from 1 to the number of training features, {len(train_x)}')
    train, labels = F.normalize(train_x.float(), dim=1), train_y.long()
    classes = int(labels.max()) + 1
    predictions = []
    for batch in F.normalize(test_x.float(), dim=1).split(max(1, _MAX_SIMILARITIES // len(train))):
        similarity, nearest = _nearest(batch @ train.T, k)
        # Less the nearest's: the same winner, and no overflow at a low temperature.
        weight = ((similarity - similarity[:, :1]).double() / temperature).exp()
        votes = weight.new_zeros(len(batch), classes)
        for place in range(k):  # in order, so that equal votes have equal sums, on a GPU too
            votes.scatter_add_(1, labels[nearest[:, place, None]], weight[:, place, None])
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)


def nearest_rows(queries: Tensor, features: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k of all features (n, D), or all if they are fewer, that are nearest to queries (m, D) by cosine.

    Returns their similarities, greatest first, and their rows: (m, k), both.
    """
    parts, norms = F.normalize(queries, dim=1).split(max(1, _MAX_SIMILARITIES // len(features))), features.norm(dim=1)
    found = [_nearest(part @ features.T / norms.clamp_min(1e-12), min(k, len(features))) for part in parts]
    similarity, rows = zip(*found, strict=True)
    return torch.cat(similarity), torch.cat(rows)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k greatest of each row (B, n) and their columns, (B, k) both; of equal ones the first."""
    greatest, where = similarity.topk(min(k + 1, similarity.shape[1]), dim=1)
    greatest, where, further = greatest[:, :k], where[:, :k], greatest[:, k:]
    # Only a tie between the last that is in and the first that is out leaves a choice.
    for row in (further == greatest[:, -1:]).any(1).nonzero()[:, 0].tolist():
        tied = (similarity[row] == greatest[row, -1]).nonzero()[:, 0]
        inside = greatest[row] == greatest[row, -1]
        where[row, inside] = tied[: int(inside.sum())]
    return greatest, where


def knn_accuracy(
    train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, k: int = 20, temperature: float = 0.07
) -> float:
    """Return the accuracy of :func:`knn_predict` on test features (m, D) of classes (m,), in percent.

    Raises:
        ValueError: If k is not from 1 to n, sizes do not match or a feature is not finite.

    Example:
        >>> x, y = torch.eye(2), torch.arange(2)
        >>> knn_accuracy(x, y, torch.tensor([[2.0, 1.0], [3.0, 1.0]]), y, k=1)
        50.0
    """
    check_features(train_x, train_y, test_x, test_y)
    return 100 * (knn_predict(train_x, train_y, test_x, k, temperature) == test_y).double().mean().item()
