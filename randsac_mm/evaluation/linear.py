"""The linear probe: how well a linear classifier reads the frozen features."""

import math
import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_labelled_features, check_pair

_TINY = 1e-6  # added to variances, as batch norm does, so that a dead feature becomes 0 and not NaN
_LARGEST_GAP = 1e-6  # how far above the minimum the objective may end, in nats


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
        weight = self.weight / self.std
        return F.linear(features.to(weight), weight, self.bias - weight @ self.mean)


@torch.no_grad()
def fit_linear_probe(features: Tensor, labels: Tensor, l2: float = 1e-3, max_iter: int = 500) -> LinearProbe:
    """Fit multinomial logistic regression on standardised features, to convergence.

    Standardising with the training statistics is the batch norm without affine parameters that usual probes put
    before the classifier. The objective, mean cross-entropy + l2 / 2 * sum of squared weights, is convex; full-batch
    L-BFGS from zero finds its minimum, so that no learning rate or seed influences the result. The arithmetic is
    float64, and takes 8 bytes a feature of memory.

    L-BFGS moves in coordinates in which the features are nearly uncorrelated: the objective's second derivative at
    zero is close to the identity there. The minimum is the same; raw pixels need ten times fewer steps.

    Args:
        features: Training features (n, D).
        labels: Their classes (n,), integers from 0.
        l2: Strength of the penalty; biases have none. Equals 1 / (n C) for scikit-learn's C, and
            2 / (n C) for two classes, for which that one has a single weight vector.
        max_iter: Largest number of L-BFGS iterations.

    Returns:
        The probe, on the device of the features. A warning says so if ``max_iter`` ended the search too early.

    Raises:
        ValueError: If sizes do not match, a feature is not finite, or an argument is out of range.
    """
    check_labelled_features('train', features, labels)
    if l2 <= 0 or max_iter < 1:
        raise ValueError(f'l2={l2} and max_iter={max_iter} must be positive: without a penalty there may be no minimum')
    x, mean, std = _standardise(features)
    labels = labels.long()
    classes = int(labels.max()) + 1
    # weight = moved @ root.inverse(), so that moved's second derivative at zero is about 1.
    root = torch.linalg.cholesky(_second_moment(x) / classes + l2 * _eye(x))
    scale = math.sqrt(classes)  # the same for biases
    moved, offset = x.new_zeros(classes, x.shape[1]), x.new_zeros(classes)
    optimizer = torch.optim.LBFGS(
        [moved, offset],
        max_iter=max_iter,
        max_eval=10 * max_iter,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-13,
        line_search_fn='strong_wolfe',
    )
    slope = x.new_full((), math.inf)

    def weight_and_bias() -> tuple[Tensor, Tensor]:
        return torch.linalg.solve_triangular(root, moved, upper=False, left=False).contiguous(), scale * offset

    def objective() -> Tensor:
        nonlocal slope
        weight, bias = weight_and_bias()
        score = F.linear(x, weight, bias).log_softmax(1)
        loss = F.nll_loss(score, labels) + l2 / 2 * weight.square().sum()
        # By hand: autograd would multiply by a transposed x, which takes many times as long.
        wrong = (score.exp_() - F.one_hot(labels, classes)).div_(len(x))
        to_weight, to_bias = (wrong.T @ x).add_(weight, alpha=l2), wrong.sum(0)
        slope = to_weight.square().sum() + to_bias.square().sum()
        moved.grad = torch.linalg.solve_triangular(root.T, to_weight, upper=True, left=False).contiguous()
        offset.grad = scale * to_bias
        return loss

    optimizer.step(objective)
    objective()
    # The objective curves by l2 at least, which bounds its distance to the minimum.
    gap = slope.item() / (2 * l2)
    if gap > _LARGEST_GAP:
        steps = next(iter(optimizer.state.values()))['n_iter']
        warnings.warn(
            f'the linear probe may be {gap:.2g} nats above its minimum after {steps} steps: raise max_iter={max_iter} '
            f'or l2={l2}',
            stacklevel=2,
        )
    return LinearProbe(mean, std, *weight_and_bias())


@torch.no_grad()
def fit_ridge(features: Tensor, labels: Tensor, l2: float = 0.1) -> LinearProbe:
    """Fit least squares to one-hot labels on standardised features, in closed form.

    The objective is mean squared error / 2 + l2 / 2 * sum of squared weights, summed over classes; biases have no
    penalty. The arithmetic is float64.

    Args:
        features: Training features (n, D).
        labels: Their classes (n,), integers from 0.
        l2: Strength of the penalty. Equals alpha / n for scikit-learn's ``Ridge``.

    Returns:
        The classifier, on the device of the features.

    Raises:
        ValueError: If sizes do not match, a feature is not finite, or ``l2`` is not positive.
    """
    check_labelled_features('train', features, labels)
    if l2 <= 0:
        raise ValueError(f'l2={l2} must be positive: without a penalty there may be no single minimum')
    x, mean, std = _standardise(features)
    targets = F.one_hot(labels.long()).double()
    bias = targets.mean(0)
    root = torch.linalg.cholesky(_second_moment(x) + l2 * _eye(x))
    weight = torch.cholesky_solve(x.T @ (targets - bias) / len(x), root).T
    return LinearProbe(mean, std, weight.contiguous(), bias)


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
    return _accuracy(fit_linear_probe(train_x, train_y, l2, max_iter), test_x, test_y)


def ridge_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, l2: float = 0.1) -> float:
    """Measure how well least squares reads features, see :func:`fit_ridge`; arguments as `linear_probe_accuracy`.

    Example:
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> ridge_accuracy(x, y, torch.tensor([[0.6], [4.0]]), torch.tensor([0, 1]))
        100.0
    """
    check_pair(train_x, train_y, test_x, test_y)
    return _accuracy(fit_ridge(train_x, train_y, l2), test_x, test_y)


def _accuracy(probe: LinearProbe, x: Tensor, y: Tensor) -> float:
    right = sum(int((probe.logits(a).argmax(1) == b).sum()) for a, b in zip(x.split(4096), y.split(4096), strict=True))
    return 100 * right / len(x)


def _standardise(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give standardised features (n, D), float64, and the means and standard deviations (D,) that were used."""
    x = features.to(torch.float64, copy=True)
    mean, std = x.mean(0), (x.var(0, correction=0) + _TINY).sqrt()
    return x.sub_(mean).div_(std), mean, std


def _second_moment(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def _eye(x: Tensor) -> Tensor:
    return torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
