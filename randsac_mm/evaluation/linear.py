"""The linear probe: how well a linear classifier reads the frozen features."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_labelled_features, check_pair

_TINY = 1e-6  # added to variances, as batch norm does, so that a dead feature becomes 0 and not NaN


class LinearProbe(NamedTuple):
    """A fitted linear probe.

    Args:
        mean: Means (D,) of the training features.
        std: Their standard deviations (D,).
        weight: Weights (number of classes, D) for standardised features.
        bias: Biases (number of classes,).
    """

    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Score features (n, D) for each class, giving (n, number of classes)."""
        return F.linear((features.to(self.mean) - self.mean) / self.std, self.weight, self.bias)


def fit_linear_probe(features: Tensor, labels: Tensor, l2: float = 1e-3, max_iter: int = 500) -> LinearProbe:
    """Fit multinomial logistic regression on standardised features, to convergence.

    Standardising with the training statistics is the batch norm without affine parameters that usual probes put
    before the classifier. The objective, mean cross-entropy + l2 / 2 * sum of squared weights, is convex; full-batch
    L-BFGS from zero finds its minimum, so that no learning rate or seed influences the result. The arithmetic is
    float64.

    Args:
        features: Training features (n, D).
        labels: Their classes (n,), integers from 0.
        l2: Strength of the penalty; biases have none. Equals 1 / (n C) for scikit-learn's C, and
            2 / (n C) for two classes, for which that one has a single weight vector.
        max_iter: Largest number of L-BFGS iterations.

    Returns:
        The probe, on the device of the features.

    Raises:
        ValueError: If sizes do not match, a feature is not finite, or an argument is out of range.
    """
    check_labelled_features('train', features, labels)
    if l2 <= 0 or max_iter < 1:
        raise ValueError(f'l2={l2} and max_iter={max_iter} must be positive: without a penalty there may be no minimum')
    x = features.double()
    mean, std = x.mean(0), (x.var(0, correction=0) + _TINY).sqrt()
    x = (x - mean) / std
    labels = labels.long()
    classes = int(labels.max()) + 1
    weight = x.new_zeros(classes, x.shape[1], requires_grad=True)
    bias = x.new_zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iter,
        history_size=20,
        tolerance_grad=1e-6,
        tolerance_change=1e-10,
        line_search_fn='strong_wolfe',
    )

    def objective() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(x, weight, bias), labels) + l2 / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(objective)
    return LinearProbe(mean, std, weight.detach(), bias.detach())


def linear_probe_accuracy(
    train_x: Tensor,
    train_y: Tensor,
    test_x: Tensor,
    test_y: Tensor,
    l2: float = 1e-3,
    max_iter: int = 500,
) -> float:
    """Measure how well a linear classifier reads features, see :func:`fit_linear_probe`.

    Args:
        train_x: Features (n, D) to fit on.
        train_y: Their classes (n,), integers from 0.
        test_x: Features (m, D) to classify.
        test_y: Their true classes (m,).
        l2: Strength of the penalty.
        max_iter: Largest number of L-BFGS iterations.

    Returns:
        Accuracy in percent.

    Raises:
        ValueError: If sizes do not match, a feature is not finite, or an argument is out of range.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> linear_probe_accuracy(x, y, torch.tensor([[0.6], [4.0]]), torch.tensor([0, 1]))
        100.0
    """
    check_pair(train_x, train_y, test_x, test_y)
    probe = fit_linear_probe(train_x, train_y, l2, max_iter)
    return 100 * (probe.logits(test_x).argmax(1) == test_y).double().mean().item()
