"""Contract: nearest neighbours equal a loop over images; linear classifiers are at their minimum."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from randsac_mm.datasets import Digits
from randsac_mm.evaluation import (
    evaluate_features,
    knn,
    knn_accuracy,
    knn_predict,
    linear_probe_accuracy,
    ridge_accuracy,
)


def blobs(n: int, dims: int, classes: int, seed: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (n, D) around a centre for each class, and labels (n,)."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dims, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(classes, (n,), generator=generator)
    return centres[labels] + spread * torch.randn(n, dims, generator=generator), labels


def slow_knn(train_x, train_y, query, k, temperature) -> dict[int, float]:
    """Sum the votes for one query (D,), straight from the formula."""
    similar = [
        sum(a * b for a, b in zip(x, query, strict=True)) / (math.hypot(*x) * math.hypot(*query)) for x in train_x
    ]
    nearest = sorted(range(len(similar)), key=lambda i: -similar[i])[:k]
    votes = {}
    for i in nearest:
        votes[train_y[i]] = votes.get(train_y[i], 0) + math.exp(similar[i] / temperature)
    return votes


@settings(max_examples=50, deadline=None)
@given(
    n=st.integers(1, 23),
    dims=st.integers(2, 7),
    classes=st.integers(1, 5),
    share=st.floats(0, 1),
    temperature=st.floats(0.05, 2),
    seed=st.integers(0, 1000),
)
def test_knn_equals_the_loop(n, dims, classes, share, temperature, seed):
    k = 1 + round(share * (n - 1))
    train_x, train_y = blobs(n, dims, classes, seed)
    test_x, _ = blobs(5, dims, classes, seed + 1)
    predicted = knn_predict(train_x, train_y, test_x, k, temperature).tolist()
    for query, own in zip(test_x.tolist(), predicted, strict=True):
        votes = slow_knn(train_x.tolist(), train_y.tolist(), query, k, temperature)
        assert votes.get(own, 0) >= max(votes.values()) * (1 - 1e-4)  # 1e-4: float32, and ties


@pytest.mark.parametrize('similarities', [6, 12, 2**25])
def test_ties(monkeypatch: pytest.MonkeyPatch, similarities: int) -> None:
    """Equally near: the first ones are taken. Equal votes: the lower class wins. However the search is cut."""
    monkeypatch.setattr(knn, '_MAX_SIMILARITIES', similarities)
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 0], [-1, 0]])
    y = torch.tensor([4, 0, 3, 3, 4, 1])
    query = torch.tensor([[2.0, 0], [0, 1], [3, 0]])
    for k, winner in ((1, 4), (2, 3), (3, 3), (4, 3)):
        assert knn_predict(x, y, query, k=k).tolist() == [winner, 0, winner], k
    assert knn_predict(x, y, query, k=4, temperature=1e-6).tolist() == [3, 0, 3]  # no overflow
    # Ten images of each of three classes at the same place: the first class has most of the first 15.
    place, label = torch.ones(30, 2), torch.tensor([2] * 10 + [0] * 10 + [1] * 10)
    assert knn_predict(place, label, place[:1], k=15).tolist() == [2]
    assert knn_predict(place, label, place[:1], k=20).tolist() == [0]


def minimise(x, y, objective, steps=200):
    """Minimise an objective of scores of standardised features by torch's L-BFGS; return what scores any x."""
    mean, std = x.double().mean(0), x.double().std(0, correction=0)
    weight = torch.zeros(int(y.max()) + 1, x.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(weight), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=steps, tolerance_grad=1e-10, tolerance_change=0, line_search_fn='strong_wolfe'
    )

    def closure():
        optimizer.zero_grad()
        loss = objective(((x.double() - mean) / std) @ weight.T + bias, weight)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-6
    return lambda x: ((x.double() - mean) / std) @ weight.T + bias


@pytest.mark.parametrize(('n', 'dims', 'classes', 'l2'), [(211, 7, 3, 1e-3), (97, 13, 5, 1e-2), (53, 3, 2, 1.0)])
@pytest.mark.parametrize('accuracy', [linear_probe_accuracy, ridge_accuracy])
def test_linear_classifiers_are_at_the_minimum_of_their_objective(accuracy, n, dims, classes, l2):
    x, y = blobs(n, dims, classes, 0, spread=2.0)
    unseen, truth = blobs(401, dims, classes, 1, spread=2.0)
    scale = torch.linspace(0.1, 30, dims)  # unequal, which standardisation undoes
    x, unseen = x * scale + 5, unseen * scale + 5

    def objective(scores, weight):
        if accuracy is linear_probe_accuracy:
            return cross_entropy(scores, y) + l2 / 2 * weight.square().sum()
        error = scores - one_hot(y, classes)
        return error.square().sum(1).mean() / 2 + l2 / 2 * weight.square().sum()

    slow = minimise(x, y, objective)
    expected = 100 * (slow(unseen).argmax(1) == truth).double().mean().item()
    assert 30 < expected < 100
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert accuracy(x, y, unseen, truth, l2) == pytest.approx(expected)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    # A feature that never changes does not matter.
    x, unseen = (torch.cat([part, torch.full((len(part), 1), 2.5)], 1) for part in (x, unseen))
    assert accuracy(x, y, unseen, truth, l2) == pytest.approx(expected)


def test_linear_probe_of_correlated_features_reaches_the_minimum() -> None:
    """Raw pixels are nearly collinear: a condition number of 1e6 must not stop the search early (with a warning)."""
    x, y = blobs(301, 11, 4, 0)
    generator = torch.Generator().manual_seed(1)
    mixed = x.double() @ torch.diag(10 ** torch.linspace(0, -3, 11, dtype=torch.double))
    mixed = mixed @ torch.randn(11, 23, generator=generator, dtype=torch.double)
    slow = minimise(
        mixed, y, lambda scores, weight: cross_entropy(scores, y) + 0.5e-3 * weight.square().sum(), steps=2000
    )
    expected = 100 * (slow(mixed).argmax(1) == y).double().mean().item()
    assert linear_probe_accuracy(mixed, y, mixed, y, l2=1e-3) == pytest.approx(expected, abs=0.4)  # one image


def test_raw_digits():
    """Known values for this split: a wrong split, scale or neighbour rule shows here."""
    train, test = Digits('train'), Digits('test')
    train_x, test_x = train.images.flatten(1) / 255, test.images.flatten(1) / 255
    scores = evaluate_features(train_x, train.labels, test_x, test.labels)
    assert scores.knn > 95
    assert scores.linear > 94
    shuffled = train.labels[torch.randperm(len(train))]
    assert knn_accuracy(train_x, shuffled, test_x, test.labels) < 25  # negative control


@pytest.mark.parametrize('accuracy', [knn_accuracy, linear_probe_accuracy, ridge_accuracy])
def test_bad_input(accuracy):
    x, y = blobs(30, 5, 3, 0)
    bad = x.clone()
    bad[7, 2], bad[9, 0] = float('nan'), float('inf')
    for data, match in (
        ((x, y[1:], x, y), r'train .*\(30, 5\) .*\(29,\)'),
        ((x, y, x[1:], y), r'test .*\(29, 5\) .*\(30,\)'),
        ((x, y, x[:, 1:], y), r'test .*\(30, 4\)'),
        ((x, y, x[:0], y[:0]), r'test .*\(0, 5\)'),
        ((x[:, 0], y, x, y), r'train .*\(30,\)'),
        ((x, y.float(), x, y), r'train .*torch\.float32'),
        ((x, y, x, y - 1 - y.min()), r'test .*torch\.int64 from -1'),
        ((x, y, bad, y), '2 of 30 test features .* number 7'),
    ):
        with pytest.raises(ValueError, match=match):
            accuracy(*data)


@pytest.mark.parametrize('k', [0, 20])
def test_k_out_of_range(k):
    x, y = blobs(19, 5, 3, 0)
    with pytest.raises(ValueError, match=f'k={k} .* 19'):
        knn_accuracy(x, y, x, y, k=k)
