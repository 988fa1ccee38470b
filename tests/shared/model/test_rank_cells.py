"""Control cells mapped by rank to a mean: what must stay, and what must be exact."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from components.shared.model import rank_cells as module
from components.shared.model.rank_cells import (
    HIGHEST,
    draw_matched_partners,
    draw_partners,
    rank_cells,
)

LOG_TEN_THOUSAND = float(np.log1p(np.float32(1e4)))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def controls(cells: int, genes: int, *, depth: float = 1.0) -> np.ndarray:
    """Return sparse, overdispersed control cells of different depth, log1p of counts per 10,000."""
    draw = rng()
    rates = depth * draw.gamma(0.6, 3.0, genes) * draw.lognormal(0, 0.4, (cells, 1))
    counts = draw.poisson(rates * draw.gamma(3.0, 1 / 3, (cells, genes)))
    counts[:, 0] += 1  # no cell is empty
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4).astype(np.float32)


def means_of(cells: np.ndarray) -> np.ndarray:
    return cells.mean(axis=0, dtype=np.float64)


@st.composite
def cases(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    """Draw control cells with many zeros and ties, and any means that expression can have."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 6)))
    some = st.one_of(st.just(0.0), st.just(1.5), st.floats(0, LOG_TEN_THOUSAND, width=32))
    cells = draw(arrays(np.float32, shape, elements=some))
    mean = st.one_of(st.just(0.0), st.just(HIGHEST), st.floats(0, HIGHEST))
    return cells, draw(arrays(np.float64, shape[1], elements=mean))


@given(cases(), st.integers(0, 9))
def test_the_mean_is_exact_and_no_value_is_out_of_range(
    case: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    cells, means = case
    before = cells.copy()
    mapped = rank_cells(cells, means, rng(seed))
    np.testing.assert_array_equal(cells, before)
    assert mapped.shape == cells.shape and mapped.dtype == np.float32
    np.testing.assert_allclose(means_of(mapped), means, rtol=1e-6, atol=1e-30)
    assert (mapped >= 0).all() and (mapped < 15).all()
    np.testing.assert_array_equal(mapped, rank_cells(cells, means, rng(seed)))


@given(cases())
def test_a_cell_with_more_of_a_gene_never_gets_less(case: tuple[np.ndarray, np.ndarray]) -> None:
    cells, means = case
    mapped = rank_cells(cells, means, rng())
    for gene in range(cells.shape[1]):
        if cells[:, gene].any():
            order = np.lexsort((mapped[:, gene], cells[:, gene]))
            assert (np.diff(mapped[order, gene]) >= 0).all()


@given(cases())
def test_a_rise_adds_no_zero_and_a_fall_takes_none_away(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    cells, means = case
    zeros = (rank_cells(cells, means, rng()) == 0).sum(axis=0) - (cells == 0).sum(axis=0)
    now = means_of(cells)
    assert (zeros[means >= now] <= 0).all()
    assert (zeros[(means <= now)] >= 0).all()
    assert (zeros[means == 0] == (cells > 0).sum(axis=0)[means == 0]).all()


def test_controls_mapped_to_their_own_mean_stay_as_they_are() -> None:
    cells = controls(40, 30)
    np.testing.assert_array_equal(rank_cells(cells, means_of(cells), rng()), cells)


def test_zeros_follow_the_mean_as_those_of_poisson_counts_do() -> None:
    cells = controls(2000, 40)
    share = (cells == 0).mean(axis=0)
    for factor in (0.5, 2.0):
        mapped = rank_cells(cells, means_of(cells) * factor, rng())
        np.testing.assert_allclose((mapped == 0).mean(axis=0), share**factor, atol=1 / 2000)


def test_the_correlation_of_genes_is_that_of_the_controls() -> None:
    cells = controls(200, 60, depth=50)
    dense = cells[:, (cells > 0).all(axis=0)]
    assert dense.shape[1] > 10
    change = np.exp(rng(1).normal(0, 0.4, dense.shape[1]))
    mapped = rank_cells(dense, np.minimum(means_of(dense) * change, 8), rng())
    np.testing.assert_array_equal(rankdata(mapped, axis=0), rankdata(dense, axis=0))
    # With zeros, ranks tie, and a change breaks or makes some of the ties.
    cells = controls(200, 60)
    change = np.exp(rng(1).normal(0, 0.4, cells.shape[1]))
    mapped = rank_cells(cells, np.minimum(means_of(cells) * change, 8), rng())
    kept = (cells > 0).mean(axis=0) > 0.1
    before, after = (np.corrcoef(rankdata(x[:, kept], axis=0).T) for x in (cells, mapped))
    pairs = np.triu_indices(len(before), 1)
    assert np.corrcoef(before[pairs], after[pairs])[0, 1] > 0.9
    assert np.abs(before[pairs] - after[pairs]).mean() < 0.05


def test_genes_that_no_control_has_appear_at_one_count_in_cells_of_their_own() -> None:
    cells = controls(100, 30)
    cells[:, 10:20] = 0
    means = means_of(cells)
    means[10:20] = 0.3
    mapped = rank_cells(cells, means, rng())[:, 10:20]
    one_count = np.where(cells > 0, cells, np.inf).min(axis=1)
    assert np.allclose((mapped > 0).sum(axis=0), np.rint(100 * 0.3 / one_count.mean()))
    assert len({tuple(np.flatnonzero(gene)) for gene in mapped.T}) == 10


def test_one_control_gives_its_mean_to_every_copy() -> None:
    cells = np.repeat(controls(1, 20), 5, axis=0)
    means = means_of(cells) * 0.7
    np.testing.assert_allclose(rank_cells(cells, means, rng()), np.tile(means, (5, 1)), rtol=1e-6)
    np.testing.assert_allclose(rank_cells(cells[:1], means, rng())[0], means, rtol=1e-6)


def test_cells_without_any_expression_can_be_mapped() -> None:
    mapped = rank_cells(np.zeros((10, 3), np.float32), np.array([0.0, 0.2, HIGHEST]), rng())
    np.testing.assert_allclose(means_of(mapped), [0, 0.2, HIGHEST], rtol=1e-6)
    np.testing.assert_array_equal((mapped > 0).sum(axis=0), [0, 2, 10])


def test_blocks_of_genes_are_mapped_as_the_whole_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = controls(20, 50) + np.float32(0.1)  # without zeros, nothing is left to chance
    means = means_of(cells) * np.linspace(0.5, 1.5, 50)
    whole = rank_cells(cells, means, rng())
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 60)
    np.testing.assert_array_equal(rank_cells(cells, means, rng()), whole)


@pytest.mark.parametrize("n_controls", [1, 5, 12, 100])
def test_partners_are_drawn_again_only_when_the_pool_is_used_up(n_controls: int) -> None:
    labels = np.array(["A"] * 12 + ["B"] * 3 + ["A"] * 5)
    partners = draw_partners(labels, n_controls, seed=0)
    np.testing.assert_array_equal(partners, draw_partners(labels, n_controls, seed=0))
    for label in "AB":
        counts = np.bincount(partners[labels == label], minlength=n_controls)
        assert counts.max() - counts.min() <= 1


def test_matched_partners_are_of_the_own_batch_where_that_has_ten_controls() -> None:
    of_controls = np.repeat(["one", "two", "few", "nan"], [12, 20, 9, 15])
    labels = np.repeat(["A", "B"], [30, 20])
    batches = np.tile(["one", "two", "few", "nan", ""], 10)
    partners = draw_matched_partners(labels, batches, of_controls, seed=0)
    np.testing.assert_array_equal(
        partners, draw_matched_partners(labels, batches, of_controls, seed=0)
    )
    assert (partners != draw_matched_partners(labels, batches, of_controls, seed=1)).any()
    for batch in ("one", "two"):
        drawn = partners[batches == batch]
        assert set(of_controls[drawn]) == {batch}
        for label in "AB":
            own = drawn[labels[batches == batch] == label]
            assert len(set(own)) == len(own)
    for batch in ("few", "nan", ""):
        assert len(set(of_controls[partners[batches == batch]])) > 1
