"""Linear classifiers of frozen features, by scikit-learn: logistic regression and ridge regression."""

from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from .features import check_features


def linear_probe_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, l2: float = 1e-3) -> float:
    """Return the accuracy of multinomial logistic regression on test features, in percent.

    It is fitted on features (n, D) of classes (n,), integers from 0, at least two, and tested on features (m, D) of
    classes (m,). Features are standardised with the training statistics. The objective, mean cross-entropy + l2 / 2 *
    sum of squared weights (not biases), is convex; L-BFGS finds its minimum in float64, so that no learning rate or
    seed matters.

    Raises:
        ValueError: If sizes do not match or a feature is not finite.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([0, 0, 1, 1])
        >>> linear_probe_accuracy(x, y, torch.tensor([[0.6], [4.0]]), torch.tensor([0, 1]))
        100.0
    """
    # For two classes scikit-learn has one weight vector, the difference of two.
    penalty = l2 / 2 if len(train_y.unique()) == 2 else l2
    classifier = LogisticRegression(C=1 / (penalty * len(train_y)), tol=1e-6, max_iter=5000)
    return _accuracy(classifier, train_x, train_y, test_x, test_y)


def ridge_accuracy(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor, l2: float = 0.1) -> float:
    """Return the accuracy of ridge regression on one-hot classes, in percent; otherwise as `linear_probe_accuracy`.

    The objective is mean squared error / 2 + l2 / 2 * sum of squared weights.
    """
    return _accuracy(RidgeClassifier(alpha=l2 * len(train_y)), train_x, train_y, test_x, test_y)


def _accuracy(classifier: BaseEstimator, train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> float:
    check_features(train_x, train_y, test_x, test_y)
    model = make_pipeline(StandardScaler(), classifier).fit(train_x.cpu().double().numpy(), train_y.cpu().numpy())
    return 100 * float(model.score(test_x.cpu().double().numpy(), test_y.cpu().numpy()))
