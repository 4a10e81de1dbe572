"""The bank's searches: exact against brute force, approximate against exact, and promises kept."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import Tensor

from sfda.building_blocks import bank as bank_module
from sfda.building_blocks.bank import FEWEST_INDEXED, GROUP, MemoryBank, largest
from sfda.errors import BadInput, NotFinite

SIZE, DIM = 6000, 16
QUERIES = torch.arange(0, SIZE, 47)


def clustered(size: int = SIZE, dim: int = DIM, *, seed: int = 0) -> Tensor:
    """Features in 40 clusters with noise."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(40, dim, generator=generator)
    noise = torch.randn(size, dim, generator=generator)
    return means[torch.arange(size) % 40] + 0.3 * noise


def filled(x: Tensor, *, approximate: bool = False) -> MemoryBank:
    result = MemoryBank(len(x), x.shape[1], 3, approximate=approximate)
    result.update(torch.arange(len(x)), x, torch.full((len(x), 3), 1 / 3))
    result.index_()
    return result


def drifted(x: Tensor) -> Tensor:
    """The same features after training went on: a common shift and some noise."""
    generator = torch.Generator().manual_seed(7)
    shift = 0.3 * torch.randn(x.shape[1], generator=generator)
    return x + shift + 0.1 * torch.randn(x.shape, generator=generator)


def brute(bank: MemoryBank, rows: Tensor, k: int) -> Tensor:
    near = bank.features[rows] @ bank.features.T
    near[torch.arange(len(rows)), rows] = -torch.inf
    return near.sort(dim=1, descending=True).indices[:, :k]


def recall(got: Tensor, true: Tensor) -> float:
    return float((got[:, :, None] == true[:, None, :]).any(1).double().mean())


@pytest.mark.parametrize("tile", [1, 500, 128 * 3 * GROUP + 17, 10**7])
def test_the_exact_search_equals_brute_force(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = clustered(1500)
    bank = filled(x)
    monkeypatch.setattr(bank_module, "SIMILARITY_TILE", tile)
    rows = torch.tensor([3, 1499, 700, 64])
    true = brute(bank, rows, 6)
    assert torch.equal(bank.neighbours(rows, x[rows], 6), true)
    assert torch.equal(bank.nearest(x[rows], 7), torch.cat([rows[:, None], true], 1))


@pytest.mark.parametrize("rows", [5, GROUP, 10 * GROUP, 10 * GROUP + 1, 11 * GROUP - 1, 5000])
def test_the_largest_of_columns_are_found_in_their_groups(rows: int) -> None:
    near = torch.randn(rows, 4, generator=torch.Generator().manual_seed(rows))
    near[-1, 0] = 9.0  # in the rest, which fills no group
    near[:3, 1] = torch.tensor([7.0, 8.0, 9.0])  # several in one group
    values, result = largest(near, 3)
    expected = near.sort(dim=0, descending=True)
    assert torch.equal(values, expected.values[:3].T)
    assert torch.equal(result, expected.indices[:3].T)


def test_equal_features_still_give_k_rows_and_never_the_own() -> None:
    bank = filled(torch.ones(200, 4))
    rows = torch.arange(200)
    got = bank.neighbours(rows, torch.ones(200, 4), 5)
    assert not (got == rows[:, None]).any()
    assert all(len(set(row)) == 5 for row in got.tolist())
    assert bank.neighbours(rows[:2], torch.ones(2, 4), 199).sort(1).values[0].tolist() == list(
        range(1, 200)
    )


def test_no_neighbours_of_a_single_sample() -> None:
    bank = filled(torch.ones(1, 4))
    assert bank.neighbours(torch.tensor([0]), torch.ones(1, 4), 0).shape == (1, 0)
    with pytest.raises(ValueError, match="2 neighbours among 1"):
        bank.nearest(torch.ones(1, 4), 2)


def test_the_exact_search_copies_no_bank() -> None:
    size = 40_000
    x = clustered(size, 32)
    bank = filled(x)
    with torch.profiler.profile(profile_memory=True) as seen:
        bank.neighbours(torch.arange(4), x[:4], 5)
    taken = max(event.cpu_memory_usage for event in seen.events())
    assert taken <= 4 * 4 * size * 1.1, "four rows of similarities; the bank is eight times that"


def test_the_approximate_search_finds_what_the_exact_one_finds() -> None:
    x = clustered()
    bank = filled(x, approximate=True)
    got = bank.neighbours(QUERIES, x[QUERIES], 5)
    assert recall(got, brute(bank, QUERIES, 5)) > 0.97
    assert torch.equal(bank.nearest(x[QUERIES], 1)[:, 0], QUERIES)


def test_a_stale_index_proposes_and_the_rows_of_now_decide() -> None:
    x = clustered()
    bank = filled(x, approximate=True)
    now = drifted(x)
    half = torch.arange(0, SIZE, 2)
    bank.update(half, now[half], torch.full((len(half), 3), 1 / 3))
    rows = half[::20]
    bank.update(rows, now[rows], torch.full((len(rows), 3), 1 / 3))
    got = bank.neighbours(rows, now[rows], 5)
    assert recall(got, brute(bank, rows, 5)) > 0.9
    near = torch.einsum("bd,bkd->bk", bank.features[rows], bank.features[got])
    assert (near.diff(dim=1) <= 1e-6).all(), "best first, by the rows of now"


def test_a_row_that_moved_away_is_ranked_by_its_new_place() -> None:
    x = clustered()
    bank = filled(x, approximate=True)
    row = torch.tensor([10])
    first = bank.neighbours(row, x[row], 1)[0]
    bank.update(first, -x[row], torch.full((1, 3), 1 / 3))
    assert int(first) not in bank.neighbours(row, x[row], 20)[0].tolist()


def test_the_own_row_is_never_a_neighbour_and_k_rows_always_come() -> None:
    x = clustered()
    x[:300] = x[0]  # more duplicates than a search has candidates
    bank = filled(x, approximate=True)
    for rows in (torch.arange(300), QUERIES):
        got = bank.neighbours(rows, x[rows], 5)
        assert got.shape == (len(rows), 5)
        assert got.dtype == torch.long
        assert not (got == rows[:, None]).any()
        assert ((got >= 0) & (got < SIZE)).all()
        assert all(len(set(row)) == 5 for row in got.tolist())


def test_too_few_candidates_are_made_up_for_by_the_exact_search() -> None:
    x = clustered()
    bank = filled(x, approximate=True)
    assert bank._index is not None
    bank._index.file.nprobe = 1  # one cell of about 78 rows
    k = 300
    got = bank.neighbours(QUERIES, x[QUERIES], k)
    assert torch.equal(got.sort(1).values, brute(bank, QUERIES, k).sort(1).values)


def test_a_small_bank_is_searched_exactly() -> None:
    x = clustered(FEWEST_INDEXED - 1)
    bank = filled(x, approximate=True)
    assert bank._index is None
    rows = torch.arange(9)
    assert torch.equal(bank.neighbours(rows, x[rows], 5), brute(bank, rows, 5))


def test_an_exact_bank_builds_no_index_and_needs_no_faiss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert filled(clustered())._index is None


def test_without_faiss_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = filled(clustered(), approximate=True)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(BadInput, match="pip install faiss-cpu"):
        MemoryBank(10, 4, 3, approximate=True)
    with pytest.raises(BadInput, match="pip install faiss-cpu"):
        bank.index_()


def test_features_that_are_no_numbers_are_named() -> None:
    x = clustered()
    x[5] = torch.nan
    with pytest.raises(NotFinite, match="memory bank"):
        filled(x, approximate=True)


def test_the_same_rows_give_the_same_index() -> None:
    x = clustered()
    one, other = filled(x, approximate=True), filled(x, approximate=True)
    state = torch.get_rng_state()
    other.index_()
    assert torch.equal(state, torch.get_rng_state()), "the run's own numbers must not move"
    result = [b._index.candidates(b.features[QUERIES], 40) for b in (one, other)]  # type: ignore[union-attr]
    assert torch.equal(*result)


def test_copies_and_states_know_nothing_of_the_index() -> None:
    x = clustered()
    bank = filled(x, approximate=True)
    assert set(bank.state_dict()) == {"features", "probs"}
    twin = copy.deepcopy(bank).to("cpu")
    got = bank.neighbours(QUERIES, x[QUERIES], 5)
    assert torch.equal(twin.neighbours(QUERIES, x[QUERIES], 5), got)
    twin.update(torch.arange(SIZE), drifted(x), torch.full((SIZE, 3), 1 / 3))
    twin.index_()
    assert torch.equal(bank.neighbours(QUERIES, x[QUERIES], 5), got)
    fresh = MemoryBank(SIZE, DIM, 3, approximate=True)
    fresh.load_state_dict(bank.state_dict())
    fresh.index_()
    assert torch.equal(fresh.neighbours(QUERIES, x[QUERIES], 5), got)


@pytest.mark.gpu
def test_a_bank_on_a_gpu_is_searched_there() -> None:
    x = clustered()
    bank = filled(x, approximate=True)
    there = MemoryBank(SIZE, DIM, 3, approximate=True).cuda()
    there.load_state_dict(bank.state_dict())
    there.index_()
    got = there.neighbours(QUERIES.cuda(), x[QUERIES].cuda(), 5)
    assert got.is_cuda
    assert recall(got.cpu(), bank.neighbours(QUERIES, x[QUERIES], 5)) > 0.99
