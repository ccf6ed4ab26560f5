"""Contract: nearest neighbours equal a loop over images; the linear probe equals scikit-learn's."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from randsac_mm.datasets import Digits
from randsac_mm.evaluation import (
    fit_linear_probe,
    fit_ridge,
    judge_features,
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
    batch_size=st.integers(1, 7),
    seed=st.integers(0, 1000),
)
def test_knn_equals_the_loop(n, dims, classes, share, temperature, batch_size, seed):
    k = 1 + round(share * (n - 1))
    train_x, train_y = blobs(n, dims, classes, seed)
    test_x, _ = blobs(5, dims, classes, seed + 1)
    predicted = knn_predict(train_x, train_y, test_x, k, temperature, batch_size).tolist()
    for query, own in zip(test_x.tolist(), predicted, strict=True):
        votes = slow_knn(train_x.tolist(), train_y.tolist(), query, k, temperature)
        assert votes.get(own, 0) >= max(votes.values()) * (1 - 1e-4)  # 1e-4: float32, and ties


def test_knn_weighs_and_does_not_only_count():
    """One very near neighbour of class 1 against two far ones of class 0, by hand."""
    train_x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    train_y = torch.tensor([1, 0, 0])
    query = torch.tensor([[1.0, 0.2]])
    assert knn_predict(train_x, train_y, query, k=3, temperature=0.07).tolist() == [1]
    assert knn_predict(train_x, train_y, query, k=3, temperature=100).tolist() == [0]


def test_knn_ignores_length_and_survives_a_low_temperature():
    train_x, train_y = blobs(50, 7, 3, 0)
    test_x, test_y = blobs(30, 7, 3, 1)
    stretch = torch.rand(50, 1) + 0.1
    assert knn_accuracy(train_x * stretch, train_y, test_x, test_y) == knn_accuracy(train_x, train_y, test_x, test_y)
    assert knn_accuracy(train_x, train_y, train_x, train_y, k=5, temperature=1e-6) == 100


def test_ties() -> None:
    """Equally near: the first ones are taken. Equal votes: the lower class wins. However the search is cut."""
    x = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0], [1, 0], [-1, 0]])
    y = torch.tensor([4, 0, 3, 3, 4, 1])
    query = torch.tensor([[2.0, 0], [0, 1], [3, 0]])
    for k, winner in ((1, 4), (2, 3), (3, 3), (4, 3)):
        for batch_size in (1, 2, None):
            assert knn_predict(x, y, query, k=k, batch_size=batch_size).tolist() == [winner, 0, winner], (k, batch_size)
    # Ten images of each of three classes at the same place: the first class has most of the first 15.
    place, label = torch.ones(30, 2), torch.tensor([2] * 10 + [0] * 10 + [1] * 10)
    assert knn_predict(place, label, place[:1], k=15).tolist() == [2]
    assert knn_predict(place, label, place[:1], k=20).tolist() == [0]


def test_search_is_cut_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = blobs(70, 5, 4, 0)
    whole = knn_predict(x, y, x, k=7)
    monkeypatch.setattr(knn, '_MOST_SIMILARITIES', 1000)
    sizes = []
    nearest = knn._nearest
    monkeypatch.setattr(
        knn, '_nearest', lambda similarity, k: (sizes.append(similarity.numel()), nearest(similarity, k))[1]
    )
    assert torch.equal(knn_predict(x, y, x, k=7), whole)
    assert max(sizes) <= 1000
    assert sum(sizes) == 70 * 70


@pytest.mark.parametrize(('n', 'dims', 'classes', 'l2'), [(211, 7, 3, 1e-3), (97, 13, 5, 1e-2), (53, 3, 2, 1.0)])
def test_linear_probe_equals_scikit_learn(n, dims, classes, l2):
    x, y = blobs(n, dims, classes, 0, spread=2.0)
    x = x * torch.linspace(0.1, 30, dims) + 5  # unequal scales
    probe = fit_linear_probe(x, y, l2)
    scaled = StandardScaler().fit_transform(x.double().numpy())
    vectors = 1 if classes == 2 else 2  # for two classes it has one weight vector, we have two of half the length
    theirs = LogisticRegression(C=2 / vectors / (n * l2), tol=1e-10, max_iter=10_000).fit(scaled, y.numpy())
    expected = theirs.predict_proba(scaled)
    np.testing.assert_allclose(probe.logits(x).softmax(1).numpy(), expected, atol=1e-4)
    assert linear_probe_accuracy(x, y, x, y, l2) == pytest.approx(100 * theirs.score(scaled, y.numpy()))


def test_linear_probe_is_deterministic_and_leaves_random_state_alone():
    x, y = blobs(101, 7, 3, 0)
    state = torch.get_rng_state()
    first, second = fit_linear_probe(x, y), fit_linear_probe(x, y)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_linear_probe_of_correlated_features_reaches_the_minimum() -> None:
    """Raw pixels are nearly collinear: a condition number of 1e6 must not stop the search early."""
    x, y = blobs(301, 11, 4, 0)
    generator = torch.Generator().manual_seed(1)
    mixed = x.double() @ torch.diag(10 ** torch.linspace(0, -3, 11, dtype=torch.double))
    mixed = mixed @ torch.randn(11, 23, generator=generator, dtype=torch.double)
    probe = fit_linear_probe(mixed, y, l2=1e-4)
    scaled = (mixed - probe.mean) / probe.std
    weight, bias = probe.weight.clone().requires_grad_(), probe.bias.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(scaled @ weight.T + bias, y) + 0.5e-4 * weight.square().sum()
    loss.backward()
    assert max(weight.grad.abs().max(), bias.grad.abs().max()) < 1e-6


def test_linear_probe_says_when_it_was_stopped() -> None:
    x, y = blobs(301, 11, 4, 0)
    with pytest.warns(UserWarning, match=r'nats above its minimum after 2 steps: raise max_iter=2 or l2=0\.001'):
        fit_linear_probe(x, y, max_iter=2)


@pytest.mark.parametrize(('n', 'dims', 'classes', 'l2'), [(211, 7, 3, 1e-3), (97, 13, 5, 0.1), (53, 3, 2, 1.0)])
def test_ridge_equals_scikit_learn(n, dims, classes, l2):
    x, y = blobs(n, dims, classes, 0, spread=2.0)
    x = x * torch.linspace(0.1, 30, dims) + 5
    ours = fit_ridge(x, y, l2)
    scaled = StandardScaler().fit_transform(x.double().numpy())
    theirs = Ridge(alpha=n * l2).fit(scaled, np.eye(classes)[y.numpy()])
    np.testing.assert_allclose(ours.logits(x).numpy(), theirs.predict(scaled), atol=1e-4)
    expected = (theirs.predict(scaled).argmax(1) == y.numpy()).mean()
    assert ridge_accuracy(x, y, x, y, l2) == pytest.approx(100 * expected)
    with pytest.raises(ValueError, match='l2=0 must be positive'):
        fit_ridge(x, y, 0)


def test_linear_probe_takes_dead_features_and_works_without_grad():
    x, y = blobs(101, 7, 3, 0)
    x[:, 3] = 2.5
    with torch.no_grad():
        assert fit_linear_probe(x, y).weight[:, 3].abs().max() == 0
        assert linear_probe_accuracy(x, y, x, y) > 60


def test_raw_digits():
    """Known values for this split: a wrong split, scale or neighbour rule shows here."""
    train, test = Digits('train'), Digits('test')
    train_x, test_x = train.images.flatten(1) / 255, test.images.flatten(1) / 255
    assert knn_accuracy(train_x, train.labels, test_x, test.labels) > 95
    assert linear_probe_accuracy(train_x, train.labels, test_x, test.labels) > 94
    assert judge_features(train_x, train.labels, test_x, test.labels) == (
        knn_accuracy(train_x, train.labels, test_x, test.labels),
        linear_probe_accuracy(train_x, train.labels, test_x, test.labels),
    )
    shuffled = train.labels[torch.randperm(len(train))]
    assert knn_accuracy(train_x, shuffled, test_x, test.labels) < 25  # negative control


@pytest.mark.parametrize('judge', [knn_accuracy, linear_probe_accuracy, ridge_accuracy])
def test_bad_input(judge):
    x, y = blobs(30, 5, 3, 0)
    with pytest.raises(ValueError, match=r'30 train features do not match labels of shape \(29,\)'):
        judge(x, y[1:], x, y)
    with pytest.raises(ValueError, match=r'29 test features do not match labels of shape \(30,\)'):
        judge(x, y, x[1:], y)
    with pytest.raises(ValueError, match='train features have 5 dimensions, test features 4'):
        judge(x, y, x[:, 1:], y)
    with pytest.raises(ValueError, match=r'test features have shape \(0, 5\)'):
        judge(x, y, x[:0], y[:0])
    with pytest.raises(ValueError, match=r'train features have shape \(30,\), expected \(n, D\)'):
        judge(x[:, 0], y, x, y)
    with pytest.raises(ValueError, match=r'train labels are torch\.float32 from .*, expected integers from 0'):
        judge(x, y.float(), x, y)
    with pytest.raises(ValueError, match=r'test labels are torch\.int64 from -1'):
        judge(x, y, x, y - 1 - y.min())
    bad = x.clone()
    bad[7, 2], bad[9, 0] = float('nan'), float('inf')
    with pytest.raises(ValueError, match='2 of 30 test features are NaN or infinite, the first is number 7'):
        judge(x, y, bad, y)


def test_arguments_out_of_range():
    x, y = blobs(19, 5, 3, 0)
    for k in (0, 20):
        with pytest.raises(ValueError, match=f'k={k} must be from 1 to the number of training features, 19'):
            knn_accuracy(x, y, x, y, k=k)
    with pytest.raises(ValueError, match=r'temperature=0 and batch_size=\d+ must be positive'):
        knn_accuracy(x, y, x, y, k=1, temperature=0)
    with pytest.raises(ValueError, match='l2=0 and max_iter=500 must be positive'):
        linear_probe_accuracy(x, y, x, y, l2=0)
