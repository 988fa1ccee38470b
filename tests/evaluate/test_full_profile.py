"""Scores from sides computed once, against cell-eval's own run; the cache; rows on disk."""

import dataclasses
import errno
import gc
import os
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pytest
from anndata.io import sparse_dataset, write_elem
from cell_eval import MetricsEvaluator, PerturbationAnndataPair
from cell_eval.metrics import discrimination_score
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix, issparse
from scipy.stats import pearsonr
from sklearn.metrics import pairwise_distances

from components.evaluate.contenders.yardstick import Yardstick, halves
from components.evaluate.inputs.pair import Pair
from components.evaluate.inputs.rows import Chosen, OnDisk, dense, digest_of, matrix_of
from components.evaluate.measures import energy as energy_module
from components.evaluate.measures import measured as measured_module
from components.evaluate.measures.discrimination import METRICS, discrimination_scores
from components.evaluate.measures.energy import (
    Points,
    distances,
    mean_distance,
    mean_distances,
)
from components.evaluate.measures.measured import Measured
from components.evaluate.measures.scoring import Score, score
from components.shared.artifacts.perturbation import CONTROL
from components.shared.telling.errors import InputError

ENERGY = "pearson_edistance"


def screen(
    dtype: type = np.float32, kind: Callable = csr_matrix, *, perturbations: int = 20, seed: int = 0
) -> Pair:
    """Return a screen of counts, and a prediction with 0.6 times the effects."""
    rng = np.random.default_rng(seed)
    genes = 120
    labels = np.array([f"G{p}" for p in range(perturbations) for _ in range(12)] + [CONTROL] * 150)
    number = np.repeat(np.arange(perturbations + 1), [12] * perturbations + [150])
    effects = rng.normal(0, 1, (perturbations + 1, genes)) * (rng.random(genes) < 0.3)
    effects[[0, -1]] = 0  # one perturbation without effect

    def draw(share: float) -> np.ndarray:
        rates = base * np.exp(share * effects[number]) * rng.gamma(5, 0.2, (len(labels), 1))
        counts = rng.poisson(rates)
        return np.log1p(counts / np.maximum(counts.sum(1, keepdims=True), 1) * 1e4).astype(dtype)

    base = rng.gamma(0.7, 2.0, genes)
    truth, predicted = draw(1.0), draw(0.6)
    predicted[labels == CONTROL] = truth[labels == CONTROL]
    order = rng.permutation(len(labels))
    obs = pd.DataFrame({"perturbation": labels}, index=[f"cell{i}" for i in range(len(labels))])
    names = [f"G{i}" for i in range(genes)]
    return Pair(
        kind(predicted[order]), obs.iloc[order], names, "perturbation", CONTROL, kind(truth[order])
    )


def cell_eval(pair: Pair, folder: Path) -> MetricsEvaluator:
    predicted, measured = pair.anndata()
    return MetricsEvaluator(
        adata_pred=predicted,
        adata_real=measured,
        control_pert=CONTROL,
        pert_col="perturbation",
        num_threads=1,
        outdir=str(folder),
    )


def assert_same(found: pl.DataFrame, expected: pl.DataFrame, *, energy: float, rest: float) -> None:
    """Check that the tables differ by no more than this in the energy distances and the rest."""
    assert found.columns == expected.columns and found.schema == expected.schema
    for column in expected.columns:
        most = energy if column == ENERGY else rest
        one, two = found[column].to_numpy(), expected[column].to_numpy()
        if most and one.dtype != object:
            np.testing.assert_allclose(one, two, rtol=most, atol=1e-12, err_msg=column)
        else:
            assert found[column].equals(expected[column], null_equal=True), column


@pytest.mark.parametrize(
    ("dtype", "kind", "energy", "rest"),
    [
        # float32, as predictions are: to the last bit, but for a float32 distance in many millions.
        (np.float32, csr_matrix, 1e-6, 0.0),
        (np.float64, np.asarray, 1e-9, 1e-9),
    ],
)
def test_scores_and_ceiling_are_cell_evals(
    tmp_path: Path, dtype: type, kind: Callable, energy: float, rest: float
) -> None:
    pair = screen(dtype, kind)
    theirs = cell_eval(pair, tmp_path)
    table, _ = theirs.compute(write_csv=False)
    found = score(pair, threads=2, what="cells")
    assert not found.not_computed
    assert_same(found.table, table, energy=energy, rest=rest)

    table, _ = theirs.compute_ceiling(write_csv=False)
    split = halves(pair)
    assert split is not None
    assert_same(score(split, threads=1, what="cells").table, table, energy=energy, rest=rest)


def test_products_of_many_perturbations_in_float32_change_no_metric_by_more_than_cell_evals_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = screen(np.float32)
    theirs, _ = cell_eval(pair, tmp_path).compute(write_csv=False)
    usual = score(pair, threads=1, what="cells").table
    monkeypatch.setattr(measured_module, "MANY", len(pair.perturbations))
    found = score(pair, threads=1, what="cells").table
    assert_same(found.drop(ENERGY), usual.drop(ENERGY), energy=0.0, rest=0.0)
    energy = []
    for matrix in (pair.measured, pair.predicted):
        control = dense(matrix[pair.rows[CONTROL]]).astype(float)
        cells = [dense(matrix[pair.rows[label]]).astype(float) for label in pair.perturbations]
        both = [
            (pairwise_distances(x, control).mean(), pairwise_distances(x).mean()) for x in cells
        ]
        energy.append([2 * across - within for across, within in both])
    exact = float(pearsonr(*energy).statistic)
    value, other = (float(table[ENERGY][0]) for table in (found, theirs))
    assert value != float(usual[ENERGY][0])  # another way
    assert abs(value - exact) < abs(other - exact) + 1e-6 < 1e-5
    assert value == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("case", ["perfect", "control mean", "all equal", "one perturbation"])
def test_degenerate_predictions_score_as_cell_eval_has_it(tmp_path: Path, case: str) -> None:
    pair = screen(kind=np.asarray, perturbations=1 if case == "one perturbation" else 5)
    control = pair.labels == CONTROL
    perturbed = {
        "perfect": pair.measured[~control],
        "control mean": pair.measured[control].mean(axis=0),
        "all equal": 1.5,
        "one perturbation": pair.predicted[~control],
    }
    predicted = pair.measured.copy()
    predicted[~control] = perturbed[case]
    changed = pair.with_prediction(predicted)
    table, _ = cell_eval(changed, tmp_path).compute(write_csv=False)
    found = score(changed, threads=1, what="cells")
    assert_same(found.table, table, energy=1e-6, rest=0.0)
    alone = case == "one perturbation"
    assert set(found.not_computed) == ({ENERGY, "clustering_agreement"} if alone else set())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 25),
    levels=st.sampled_from([2, 3, 1000]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@pytest.mark.parametrize("metric", METRICS)
def test_discrimination_is_cell_evals_with_ties_and_without_effects(
    metric: str, seed: int, rows: int, levels: int, dtype: type
) -> None:
    rng = np.random.default_rng(seed)
    labels = [f"G{i}" for i in range(rows)]  # the later ones are not among the genes
    genes = [f"G{i}" for i in range(max(rows - 3, 2))]
    real, predicted = (rng.integers(0, levels, (rows + 1, len(genes))) / 8 for _ in range(2))
    if seed % 3 == 0:
        predicted[:] = predicted[-1]  # no effect at all
    obs = pd.DataFrame({"perturbation": [*labels, CONTROL]}, index=[*labels, CONTROL])
    var = pd.DataFrame(index=genes)
    sides = [pd.DataFrame(x.astype(dtype), obs.index, genes) for x in (real, predicted)]
    pair = Pair(
        sides[1].to_numpy(), obs, list(var.index), "perturbation", CONTROL, sides[0].to_numpy()
    )
    both = pair.anndata()
    compared = PerturbationAnndataPair(
        real=both[1], pred=both[0], pert_col="perturbation", control_pert=CONTROL
    )
    effects = [x.to_numpy()[:-1] - x.to_numpy()[-1] for x in sides]
    order = np.argsort(labels)
    found = discrimination_scores(
        effects[0][order], effects[1][order], [labels[i] for i in order], genes, metric
    )
    assert found == discrimination_score(compared, metric=metric)


def test_distances_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    control = rng.gamma(1, 1, (1100, 80)).astype(np.float32)
    cells = rng.gamma(1, 1.2, (90, 80)).astype(np.float32)
    cells[:5] = cells[5]
    x, y = Points.of(cells), Points.of(control)
    for one, two in ((x, y), (x, x)):
        expected = pairwise_distances(cells, control if two is y else None)
        found = distances(one, two)
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-6)


@settings(max_examples=60)
@given(
    st.integers(1, 60),
    st.integers(1, 90),
    st.sampled_from([128, 333, 1024, 1 << 22]),
    st.sampled_from([np.float32, np.float64]),
    st.booleans(),
    st.integers(0, 9),
)
def test_a_mean_distance_is_numpys_however_few_are_in_memory(
    cells: int, others: int, at_once: int, dtype: type, centred: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.gamma(1, 1, (n, 300)).astype(dtype) for n in (cells, others))
    x[cells // 2 :] = x[cells // 2]  # the second half holds one mean
    centre = y.mean(axis=0, dtype=float) if centred else None
    one, two = Points.of(x, centre), Points.of(y, centre)
    stops = np.array([cells // 3 + 1, cells] if cells > 1 else [1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(energy_module, "AT_ONCE", at_once)
        found = [mean_distance(one, two), mean_distance(two, two), *mean_distances(one, stops, two)]
    whole = distances(one, two)
    means = [whole.mean(), distances(two, two).mean()]
    means += [part.mean() for part in np.split(whole, stops[:-1])]
    if dtype is np.float32 and not centred:
        assert found == [float(mean) for mean in means]
    else:
        assert found == pytest.approx(means, rel=1e-6)


def test_cells_are_let_go_of_as_soon_as_their_distances_are_known() -> None:
    points = Points.of(np.random.default_rng(0).random((40, 5)))
    others = points.rows(0, 9)
    there = weakref.ref(points)
    gc.disable()  # a circle of references would wait for it
    try:
        mean_distance(points, points)
        mean_distance(points, others)
        mean_distances(points, np.array([10, 40]), others)
        del points
        assert there() is None
    finally:
        gc.enable()


def test_the_mean_of_many_distances_is_divided_as_numpy_divides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells, others = 4101, 4103  # a float32 does not hold their product
    distance = np.float32(np.sqrt(2))
    monkeypatch.setattr(
        energy_module, "distances", lambda x, y: np.full((len(x.norms), len(y.norms)), distance)
    )
    x, y = (Points.of(np.arange(n, dtype=np.float32)[:, None]) for n in (cells, others))
    assert mean_distance(x, y) == float(np.full((cells, others), distance).mean())


def test_few_distances_are_in_memory_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_module, "AT_ONCE", 5000)
    real, made = energy_module.distances, []

    def noted(*of: Points) -> np.ndarray:
        made.append(real(*of))
        return made[-1]

    monkeypatch.setattr(energy_module, "distances", noted)
    points = Points.of(np.random.default_rng(0).random((400, 5)))
    mean_distance(points, points)
    assert len(made) > 1 and max(found.size for found in made) <= 5000 + 2 * 400


def test_distances_from_a_centre_are_right_for_cells_that_are_near_one_another() -> None:
    rng = np.random.default_rng(0)
    control = rng.gamma(1, 1, (1100, 1000)).astype(np.float32)
    cells = rng.gamma(1, 1.2, (90, 1000)).astype(np.float32)
    cells[:5] = control[:5]
    cells[5:10] = control[5:10] * np.float32(1.001)
    centre = control.mean(axis=0, dtype=float)
    x, y = Points.of(cells, centre), Points.of(control, centre)
    assert x.values.dtype == y.values.dtype == np.float32
    found = distances(x, y)
    expected = pairwise_distances(cells.astype(float), control.astype(float))
    assert (found[range(5), range(5)] == 0).all()
    alone = distances(x.rows(7, 8), y)
    np.testing.assert_array_equal(alone[0], found[7])  # whatever it is multiplied with
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_cells_that_hold_one_mean_are_multiplied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = screen(kind=np.asarray, perturbations=5)
    for label in pair.perturbations:
        pair.predicted[pair.rows[label]] = pair.predicted[pair.rows[label]].mean(axis=0)
    expected = [
        2 * pairwise_distances(cells, pair.predicted[pair.rows[CONTROL]]).mean()
        for cells in (pair.predicted[pair.rows[label]] for label in pair.perturbations)
    ]
    counted = []
    real = energy_module.distances

    def noted(x: Points, y: Points) -> np.ndarray:
        counted.append((len(x.norms), len(y.norms)))
        return real(x, y)

    measured = Measured.of(pair, threads=1)
    monkeypatch.setattr(energy_module, "distances", noted)
    found = score(pair, threads=1, measured=measured, what="cells").predicted.energy
    assert [x for x, y in counted if y == 150] == [5]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_energy_distances_are_cell_evals() -> None:
    pair = screen(np.float64)
    found = Measured.of(pair, threads=1).side
    control = dense(pair.measured[pair.rows[CONTROL]])
    within = pairwise_distances(control).mean()
    for energy, label in zip(found.energy, pair.perturbations, strict=True):
        cells = dense(pair.measured[pair.rows[label]])
        expected = 2 * pairwise_distances(cells, control).mean() - pairwise_distances(cells).mean()
        assert energy - within == pytest.approx(expected - within, rel=1e-6)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that fills with the sides that are computed, not read."""
    sides: list[str] = []
    real = measured_module.side_of

    def noted(*given: object, what: str, **named: object) -> object:
        sides.append(what)
        return real(*given, what=what, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(measured_module, "side_of", noted)
    return sides


def test_the_measured_side_is_computed_once_for_all_predictions(
    tmp_path: Path, computed: list[str]
) -> None:
    pair, other = screen(), screen(seed=1)
    cache = tmp_path / "not" / "there yet"
    first = Measured.of(pair, threads=1, cache=cache)
    again = Measured.of(pair.with_prediction(other.predicted), threads=1, cache=cache)
    assert computed == ["measured cells"]
    for field in dataclasses.fields(first.side):
        kept, new = (getattr(each.side, field.name) for each in (again, first))
        assert type(kept) is type(new) and np.array_equal(kept, new), field.name
    assert score(pair, threads=1, measured=again, what="cells").table.equals(
        score(pair, threads=1, what="cells").table
    )


def test_of_all_predictions_the_models_own_is_kept_for_a_run_that_is_cut_off(
    tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # beside the cache, since a file is renamed within one file system alone
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    pair, other = screen(), screen(seed=1)
    yardstick = Yardstick.of(pair, threads=1, cache=tmp_path)
    for _ in range(2):
        yardstick.examine(pair, what="model")
        yardstick.examine(pair.with_prediction(other.predicted), what="baseline")
    assert computed == ["measured cells", "model", "baseline", "baseline"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("change", ["a value", "a label", "a gene's name", "how it is stored"])
def test_another_measured_side_is_not_taken_from_the_cache(
    tmp_path: Path, computed: list[str], change: str
) -> None:
    pair = screen()
    Measured.of(pair, threads=1, cache=tmp_path)
    measured, obs, genes = pair.measured.copy(), pair.obs.copy(), list(pair.genes)
    if change == "a value":
        measured.data[17] += 0.5
    elif change == "a label":
        rows = [int(pair.rows[label][0]) for label in ("G3", "G4")]
        obs.iloc[rows, 0] = ["G4", "G3"]
    elif change == "a gene's name":
        genes[5] = "OTHER"
    else:
        measured = measured.toarray()
    Measured.of(Pair(pair.predicted, obs, genes, "perturbation", CONTROL, measured), cache=tmp_path)
    assert len(computed) == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "of another kind"])
def test_a_damaged_file_is_computed_again_and_said(
    tmp_path: Path, computed: list[str], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = screen()
    first = Measured.of(pair, threads=1, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(
        {
            "cut": whole[:middle],
            "flipped": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
            "emptied": b"",
            "of another kind": b"\x80\x04N.",  # a pickle
        }[damage]
    )
    again = Measured.of(pair, threads=1, cache=tmp_path)
    assert len(computed) == 2 and np.array_equal(again.side.p_value, first.side.p_value)
    said = [line for line in capsys.readouterr().err.splitlines() if "damaged" in line]
    assert len(said) == 1 and str(file) in said[0]
    assert file.read_bytes() == whole and list(tmp_path.iterdir()) == [file]


def test_a_full_disk_under_the_cache_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*some: object, **more: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    Measured.of(screen(), threads=1, cache=tmp_path)
    assert "is not kept (No space left on device)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_to_is_told_before_the_long_work(
    tmp_path: Path, computed: list[str]
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache: \S+file cannot be written to"):
        Measured.of(screen(), threads=1, cache=tmp_path / "file")
    assert not computed


def test_what_a_killed_evaluation_had_computed_is_not_computed_again(
    tmp_path: Path, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    split = halves(screen())
    assert split is not None

    def evaluated() -> Score:
        return score(split, threads=1, what="other half", cache=tmp_path)

    whole = os.rename

    def killed(*paths: object) -> None:
        if len(list(tmp_path.glob("*.npz"))) == 1:
            raise KeyboardInterrupt
        whole(*paths)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            evaluated()
    assert computed == ["measured cells", "other half"]
    assert len(list(tmp_path.iterdir())) == 1  # and nothing half-written
    found = evaluated()
    assert computed == ["measured cells", "other half", "other half"]
    assert evaluated().table.equals(found.table)
    assert len(computed) == 3


@pytest.mark.parametrize("kind", [csr_matrix, np.asarray])
@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.integers(0, 199), max_size=60))
def test_rows_on_disk_are_those_in_memory(
    tmp_path_factory: pytest.TempPathFactory, kind: Callable, rows: list[int]
) -> None:
    rng = np.random.default_rng(0)
    cells = kind((rng.random((200, 7)) * (rng.random((200, 7)) < 0.5)).astype(np.float32))
    with h5py.File(tmp_path_factory.mktemp("rows") / "cells.h5", "w") as file:
        write_elem(file, "X", cells)
        stored = sparse_dataset(file["X"]) if issparse(cells) else file["X"]
        matrix = matrix_of(stored)
        assert isinstance(matrix, OnDisk) and matrix.shape == cells.shape
        wanted = np.array(rows, dtype=int)
        found = matrix[wanted]
        assert issparse(found) == issparse(cells) and found.dtype == np.float32
        np.testing.assert_array_equal(dense(found), dense(cells)[wanted])
        mask = np.isin(np.arange(200), wanted)
        np.testing.assert_array_equal(dense(matrix[mask]), dense(cells)[mask])
        chosen = Chosen(matrix, np.arange(199, -1, -1))
        np.testing.assert_array_equal(dense(chosen[wanted]), dense(cells)[::-1][wanted])
        assert chosen.shape == cells.shape and digest_of(chosen) != digest_of(matrix)
        assert digest_of(matrix) == digest_of(matrix_of(stored))


def test_of_rows_on_disk_nothing_is_read_but_what_lies_between_neighbours() -> None:
    values = np.arange(400.0).reshape(200, 2)
    asked = []

    class Stored:
        shape, dtype = values.shape, values.dtype

        def __getitem__(self, rows: slice) -> np.ndarray:
            asked.append((rows.start, rows.stop))
            return values[rows]

    found = OnDisk(Stored())[np.array([90, 5, 7, 6, 91, 199])]
    np.testing.assert_array_equal(found, values[[90, 5, 7, 6, 91, 199]])
    assert asked == [(5, 8), (90, 92), (199, 200)]
