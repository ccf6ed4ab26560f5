"""What all judges of features ask of their input."""

from torch import Tensor


def check_labelled_features(name: str, features: Tensor, labels: Tensor) -> None:
    """Check one set of features with its labels.

    Args:
        name: What to call it in messages, ``'train'`` or ``'test'``.
        features: Features (n, D).
        labels: Classes (n,), integers from 0.

    Raises:
        ValueError: If shapes do not fit, the set is empty, a feature is not finite or a label is no integer from 0.
    """
    if features.ndim != 2 or not features.numel():
        raise ValueError(f'{name} features have shape {tuple(features.shape)}, expected (n, D), not empty')
    if labels.shape != features.shape[:1]:
        raise ValueError(f'{len(features)} {name} features do not match labels of shape {tuple(labels.shape)}')
    if labels.is_floating_point() or labels.is_complex() or int(labels.min()) < 0:
        raise ValueError(f'{name} labels are {labels.dtype} from {labels.min()}, expected integers from 0')
    bad = ~features.isfinite().all(1)
    if bad.any():
        raise ValueError(
            f'{int(bad.sum())} of {len(bad)} {name} features are NaN or infinite, the first is number '
            f'{int(bad.int().argmax())}: look whether the training diverged'
        )


def check_pair(train_x: Tensor, train_y: Tensor, test_x: Tensor, test_y: Tensor) -> None:
    """Check the features (n, D), (m, D) and labels (n,), (m,) of a training and a test set.

    Raises:
        ValueError: As :func:`check_labelled_features`, or if D differs.
    """
    check_labelled_features('train', train_x, train_y)
    check_labelled_features('test', test_x, test_y)
    if train_x.shape[1] != test_x.shape[1]:
        raise ValueError(f'train features have {train_x.shape[1]} dimensions, test features {test_x.shape[1]}')
