"""Contract: what fails in one process fails in all, and features come back in the order of the images."""

import pytest
import torch

from randsac_mm.evaluation import online_ranks


def fail():
    raise KeyError('here')


def test_failure_of_another_rank_is_one_here_too(monkeypatch):
    monkeypatch.setattr(online_ranks, 'all_gather_object', lambda own: [own, 'OSError: gone'])
    with pytest.raises(RuntimeError, match=r'failed on rank 1: OSError: gone'):
        online_ranks.on_all_ranks(lambda: 3)
    with pytest.raises(KeyError, match='here'):
        online_ranks.on_all_ranks(fail)
    monkeypatch.setattr(online_ranks, 'all_gather_object', lambda own: [own, ('OSError: gone', None)])
    with pytest.raises(RuntimeError, match=r'failed on rank 1: OSError: gone'):
        online_ranks.gather_features(lambda: torch.zeros(2, 3))
    with pytest.raises(KeyError, match='here'):
        online_ranks.gather_features(fail)


def test_features_come_back_in_order(monkeypatch):
    whole = torch.arange(22.0).reshape(11, 2)
    parts = [(None, whole[rank::4]) for rank in range(4)]
    monkeypatch.setattr(online_ranks, 'get_world_size', lambda: 4)
    monkeypatch.setattr(online_ranks, 'all_gather_object', lambda own: parts)
    assert torch.equal(online_ranks.gather_features(lambda: parts[0][1]), whole)
    monkeypatch.setattr(online_ranks, 'all_gather_object', lambda own: [(None, whole[:1]), *[(None, None)] * 3])
    assert torch.equal(online_ranks.gather_features(lambda: whole[:1]), whole[:1])


def test_main_rank_tells_its_result_or_its_failure(monkeypatch):
    assert online_ranks.on_main_rank(lambda: {'knn': 3.0}) == {'knn': 3.0}
    with pytest.raises(KeyError, match='here'):
        online_ranks.on_main_rank(fail)
    monkeypatch.setattr(online_ranks, 'get_rank', lambda: 1)
    monkeypatch.setattr(online_ranks, 'broadcast_object_list', lambda message: message.__setitem__(1, 'OSError: gone'))
    with pytest.raises(RuntimeError, match='failed on rank 0: OSError: gone'):
        online_ranks.on_main_rank(fail)
