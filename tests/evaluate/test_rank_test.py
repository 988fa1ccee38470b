"""The rank test against pdex itself, to the last bit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pdex import pdex
from scipy.sparse import csr_matrix
from scipy.stats import mannwhitneyu

from components.evaluate.inputs.pair import Pair
from components.evaluate.measures import side as side_module
from components.evaluate.measures.compiled import kept
from components.evaluate.measures.rank_test import SortedControls, rank_test
from components.evaluate.measures.side import Controls, Side, side_of

CONTROL = "non-targeting"


def pair_from(cells: np.ndarray, labels: list[str], kind: Callable = np.asarray) -> Pair:
    """Return cells [cells, genes] as a prediction of themselves."""
    names = [f"cell{i}" for i in range(len(labels))]
    obs = pd.DataFrame({"perturbation": labels}, index=names)
    genes = [f"G{i}" for i in range(cells.shape[1])]
    return Pair(kind(cells), obs, genes, "perturbation", CONTROL, kind(cells))


def table(side: Side) -> pl.DataFrame:
    return side.de_of(0, len(side.perturbations))


def ours(pair: Pair, threads: int = 1) -> Side:
    controls = Controls.of(pair.measured[pair.rows[CONTROL]], centred=False)
    return side_of(
        pair.measured,
        pair.rows,
        CONTROL,
        pair.genes,
        controls=controls,
        threads=threads,
        what="cells",
    )


def theirs(pair: Pair) -> pl.DataFrame:
    """Return what cell-eval reads of pdex's table, made with the settings cell-eval has."""
    adata = pair.anndata()[1]
    found = pdex(adata, "perturbation", is_log1p=True, epsilon=0.0, threads=1)
    return found[["target", "feature", "log2_fold_change", "p_value", "fdr"]]  # type: ignore[index]


def labels_of(controls: int, sizes: list[int]) -> list[str]:
    return [CONTROL] * controls + [f"G{p}" for p, size in enumerate(sizes) for _ in range(size)]


@st.composite
def screens(draw: st.DrawFn) -> tuple[np.ndarray, list[str]]:
    """Draw cells of all kinds: continuous, tied, sparse, constant in a gene, few or many."""
    labels = labels_of(
        draw(st.integers(1, 30)), draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    )
    shape = (len(labels), draw(st.integers(1, 6)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    width = 32 if dtype == np.float32 else 64
    value = draw(
        st.sampled_from(
            [
                st.floats(0, 14, width=width),
                st.sampled_from([0.0, 0.5, 1.25]),
                st.sampled_from([0.0, 0.0, 0.0, 0.0, 2.5, 3.0]),
            ]
        )
    )
    cells = draw(arrays(dtype, shape, elements=value))
    constant = draw(st.lists(st.booleans(), min_size=shape[1], max_size=shape[1]))
    cells[:, constant] = cells[0, constant]
    return cells, draw(st.permutations(labels))


@pytest.mark.parametrize("kind", [np.asarray, csr_matrix])
@settings(max_examples=60, deadline=None)
@given(screen=screens())
@example(screen=(np.zeros((2, 1), np.float32), labels_of(1, [1])))
@example(screen=(np.full((5, 2), 3.5), labels_of(2, [3])))
@example(screen=(np.float32([[0], [1], [1], [0], [2]]), labels_of(3, [2])))
def test_the_table_is_pdexs_to_the_last_bit(
    kind: Callable, screen: tuple[np.ndarray, list[str]]
) -> None:
    pair = pair_from(*screen, kind)
    expected = theirs(pair)
    found = table(ours(pair))
    assert found.schema == expected.schema
    for column in expected.columns:
        assert found[column].equals(expected[column], check_dtypes=True), column


def test_a_screen_of_counts_has_pdexs_table_whatever_the_threads() -> None:
    rng = np.random.default_rng(0)
    labels = labels_of(900, [70, 250, 1, 400, 90])
    counts = rng.poisson(rng.gamma(0.7, 1.5, 40), (len(labels), 40)) * rng.choice(
        [1.0, 1.5, 3.0], (len(labels), 1)
    )
    pair = pair_from(np.log1p(counts).astype(np.float32), labels, csr_matrix)
    assert (pair.measured.toarray() == 0).mean() > 0.4
    one, two = ours(pair, threads=1), ours(pair, threads=2)
    assert table(one).equals(theirs(pair))
    assert table(two).equals(table(one)) and np.array_equal(one.energy, two.energy)


def test_p_is_scipys() -> None:
    rng = np.random.default_rng(1)
    own, control = rng.integers(0, 4, (15, 5)) / 2.0, rng.integers(0, 5, (40, 5)) / 2.0
    p = rank_test(own, np.array([6, 15]), SortedControls.of(control))
    for row, part in enumerate((own[:6], own[6:])):
        expected = mannwhitneyu(part, control, method="asymptotic")
        np.testing.assert_allclose(p[row], expected.pvalue, rtol=1e-12)


def test_zeros_that_are_stored_are_zeros_all_the_same() -> None:
    cells = np.float32([[0, 2], [1, 0], [3, 0], [0, 1]])
    stored = csr_matrix(cells)
    stored.data[0] = 0.0
    cells[0, 1] = 0.0
    pair = pair_from(cells, labels_of(2, [2]), lambda _: stored.copy())
    assert pair.measured.nnz == 4
    assert table(ours(pair)).equals(theirs(pair_from(cells, labels_of(2, [2]))))


def test_what_is_compiled_is_kept_where_it_can_be_and_else_compiled_again() -> None:
    class Compiled:
        asked = 0

        def enable_caching(self) -> None:
            self.asked += 1
            raise RuntimeError("no locator available")

    function = Compiled()
    assert kept(function) is function and function.asked == 1


def test_no_more_threads_run_than_are_allowed(monkeypatch) -> None:
    allowed = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, most: int) -> None:
            allowed.append(most)
            super().__init__(most)

    monkeypatch.setattr(side_module, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(side_module, "cpus", lambda: 8)
    cells = np.random.default_rng(0).random((9, 4), np.float32)
    controls = Controls.of(cells, centred=True, threads=3)
    controls.as_in(cells + 1, threads=2)
    ours(pair_from(cells, labels_of(3, [3, 3])), threads=1)
    assert allowed == [3, 2, 8, 1]
