"""On what scale expression is: what is found is said, and brought to log1p of counts per 10,000."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

from components.shared.telling.errors import InputError
from tests.ingest.files import counts, ingested, per

TARGET = "log1p of counts per 10,000"


LOGS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log1p of ": np.log1p,
    "log2(x + 1) of ": lambda x: np.log2(x + 1),
    "log10(x + 1) of ": lambda x: np.log10(x + 1),
    "log1p of log1p of ": lambda x: np.log1p(np.log1p(x)),
    "": lambda x: x,
}
TOTALS = {
    "counts per 10,000": 1e4,
    "counts per 1,000,000": 1e6,
    "counts per 5,321": 5321.0,
    "fractions of a cell's counts": 1.0,
}
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
}


@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("total", TOTALS)
def test_any_logarithm_of_any_total_becomes_log1p_per_ten_thousand(
    tmp_path: Path, log: str, total: str
) -> None:
    raw = counts()
    found, summary = ingested(tmp_path, LOGS[log](per(TOTALS[total], raw)).astype(np.float32))
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(1e4, raw)), rtol=2e-3, atol=1e-4)
    assert summary["scale_found"] == log + total
    assert found.uns["scale_found"] == log + total
    assert found.uns["normalisation"] == TARGET
    kept = (log, total) == ("log1p of ", "counts per 10,000")
    assert summary["scale_done"] == ("kept as it is" if kept else f"turned into {TARGET}")
    assert summary["scale_caveat"] == ""


@pytest.mark.parametrize("log", [log for log in LOGS if log])
@pytest.mark.parametrize("form", FORMS)
def test_the_logarithm_of_raw_counts_is_undone(tmp_path: Path, log: str, form: str) -> None:
    raw = counts()
    found, summary = ingested(tmp_path, FORMS[form](LOGS[log](raw).astype(np.float32)))
    assert summary["scale_found"] == f"{log}raw counts"
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(1e4, raw)), rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_genes_that_were_left_out_are_told_and_the_values_kept(tmp_path: Path, form: str) -> None:
    x = np.log1p(per(1e4, counts(genes=400)))[:, ::3].astype(np.float32)
    found, summary = ingested(tmp_path, FORMS[form](x))
    assert np.array_equal(found.X.toarray(), x)
    assert summary["scale_found"] == TARGET
    assert "genes were left out" in found.uns["normalisation"]
    assert "genes were left out" in summary["scale_caveat"]


def test_log2_with_genes_left_out_keeps_its_total(tmp_path: Path) -> None:
    part = per(1e4, counts(genes=400))[:, ::3]
    found, summary = ingested(tmp_path, np.log2(part + 1).astype(np.float32))
    np.testing.assert_allclose(found.X.toarray(), np.log1p(part), rtol=1e-4, atol=1e-5)
    assert summary["scale_found"] == "log2(x + 1) of counts per 10,000"


def test_what_is_not_recognised_is_refused_with_the_option(tmp_path: Path) -> None:
    x = np.random.default_rng(0).gamma(1.0, 1.0, (60, 80)).astype(np.float32)
    with pytest.raises(
        InputError, match=r"no scale that is recognised.*set it, as in scale: log1p"
    ):
        ingested(tmp_path, x)
    assert not (tmp_path / "out").exists()


OTHERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "square roots": np.sqrt,
    "arcsinh": lambda raw: np.arcsinh(per(1e4, raw)),
    "a logarithm without + 1": lambda raw: np.log(np.maximum(per(1e4, raw), 1)),
    "imputed": lambda raw: np.log1p(per(1e4, raw)) + np.random.default_rng(0).random(raw.shape),
    "to at most 1": lambda raw: np.log1p(per(1e4, raw)) / 9,
    "means of cells": lambda raw: np.log1p(per(1e4, raw)).reshape(-1, 5, raw.shape[1]).mean(1),
    "fractions, genes left out": lambda raw: np.log1p(per(1, raw))[:, ::3],
    "log2 per million, genes left out": lambda raw: np.log2(per(1e6, raw) + 1)[:, ::3],
    "two scales": lambda raw: np.log1p(np.r_[per(1e6, raw[:150]), per(1e4, raw[150:])]),
    "counts and logarithms": lambda raw: np.r_[raw[:150], np.log1p(per(1e4, raw[150:]))],
}


@pytest.mark.parametrize("what", OTHERS)
def test_no_other_transformation_is_taken_for_one_that_is_known(tmp_path: Path, what: str) -> None:
    with pytest.raises(InputError, match="no scale that is recognised"):
        ingested(tmp_path, OTHERS[what](counts(300, 400)).astype(np.float32))


@pytest.mark.parametrize("digits", [2, 3, 16])
def test_rounded_values_are_recognised(tmp_path: Path, digits: int) -> None:
    x = np.log1p(per(1e4, counts(300, 400)))
    x = x.astype(np.float16).astype(np.float32) if digits == 16 else x.round(digits)
    assert ingested(tmp_path, x)[1]["scale_found"] == TARGET


def test_counts_over_a_factor_of_each_cell_are_counts(tmp_path: Path) -> None:
    raw = counts()
    factor = np.random.default_rng(0).lognormal(0, 0.3, (len(raw), 1))
    found, summary = ingested(tmp_path, (raw / factor).astype(np.float32))
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(1e4, raw)), rtol=1e-4, atol=1e-5)
    assert summary["scale_found"] == "counts over a factor of each cell"
    assert "multiples of its smallest value" in summary["expression_known"]


def test_the_logarithm_of_counts_over_factors_needs_the_option(tmp_path: Path) -> None:
    raw = counts(genes=1200)
    x = np.log1p(raw / np.random.default_rng(0).lognormal(0, 0.3, (len(raw), 1)))
    with pytest.raises(InputError, match="no scale that is recognised"):
        ingested(tmp_path, x.astype(np.float32))
    found, summary = ingested(tmp_path, x.astype(np.float32), scale="log1p_counts")
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(1e4, raw)), rtol=1e-3, atol=1e-4)
    assert summary["scale_found"] == "log1p of counts over a factor of each cell"


def test_counts_per_million_with_genes_left_out_need_the_option(tmp_path: Path) -> None:
    part = per(1e6, counts(genes=400))[:, ::3]
    x = np.log1p(part).astype(np.float32)
    with pytest.raises(InputError, match="log1p_cpm"):
        ingested(tmp_path, x)
    found, summary = ingested(tmp_path, x, scale="log1p_cpm")
    np.testing.assert_allclose(found.X.toarray(), np.log1p(part / 100), rtol=1e-3, atol=1e-4)
    assert summary["scale_found"] == "log1p of counts per 1,000,000"
    assert "genes were left out" in summary["scale_caveat"]


@pytest.mark.parametrize(
    ("scale", "why"),
    [
        ("log1p_cp10k", "more than 10,000"),
        ("log2_counts", "does not make whole numbers"),
        ("log1p_log1p_log1p", "is not allowed"),
        ("log1p_cpms", "nearest: 'log1p_cpm'"),
    ],
)
def test_a_scale_that_cannot_be_is_refused(tmp_path: Path, scale: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        ingested(tmp_path, np.log1p(per(1e6, counts())).astype(np.float32), scale=scale)


def test_expression_and_scale_must_not_differ(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give one of them"):
        ingested(tmp_path, counts(), expression="counts", scale="log1p_cpm")


def test_a_cell_on_another_scale_than_the_others_is_named(tmp_path: Path) -> None:
    raw = counts(3000)
    x = np.log1p(per(1e6, raw))
    x[2977] = np.log1p(per(1e4, raw[2977:2978]))
    seed = next(s for s in range(20) if not _sampled(s, 2977, 3000))
    with pytest.raises(InputError, match="cell 'cell2977' adds up to 10,000"):
        ingested(tmp_path, x.astype(np.float32), seed=seed)


def _sampled(seed: int, row: int, rows: int) -> bool:
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, rows, 33).astype(int)
    starts = [int(rng.integers(low, high - 16)) for low, high in pairwise(edges)]
    return any(start <= row < start + 16 for start in starts)


def test_log1p_said_by_hand_is_kept_and_its_totals_told(tmp_path: Path) -> None:
    x = np.random.default_rng(0).gamma(2.0, 1.0, (60, 80)).astype(np.float32)
    found, summary = ingested(tmp_path, x, expression="log1p")
    assert np.array_equal(found.X.toarray(), x)
    assert "as given; cells add up to" in summary["scale_caveat"]
    assert "as given" in found.uns["normalisation"]


def test_values_that_only_say_whether_a_gene_was_seen_are_no_counts(tmp_path):
    seen = (counts() > 0).astype(float)
    with pytest.raises(InputError, match=r"only whether a gene was seen: .* values are all 1;"):
        ingested(tmp_path, seen)
    assert ingested(tmp_path, seen, scale="counts")[1]["scale_found"] == "raw counts"


@pytest.mark.parametrize("depth", [2000, 6000, 30_000])
@pytest.mark.parametrize("log", ["log1p", "log2"])
def test_logarithms_of_counts_over_size_factors_are_refused(
    tmp_path: Path, log: str, depth: int
) -> None:
    """Cells of fewer counts than 10,000 look like those of which genes were left out."""
    rng = np.random.default_rng(0)
    mean = rng.dirichlet(np.full(10_000, 0.3)) * depth
    raw = rng.poisson(mean * rng.lognormal(0, 0.4, (60, 1))).astype(float)
    factors = raw.sum(axis=1, keepdims=True) * rng.lognormal(0, 0.15, (60, 1))
    x = LOGS[f"{log}{'(x + 1)' * (log == 'log2')} of "](raw / (factors / factors.mean()))
    with pytest.raises(InputError, match=f"set scale: {log}_counts for counts over size factors"):
        ingested(tmp_path, sparse.csr_matrix(x.astype(np.float32)))


def test_where_few_genes_may_be_a_part_of_all_size_factors_are_named(tmp_path: Path) -> None:
    genes = round(400 * 1e4 / counts(genes=400).sum(axis=1).mean())  # cells of 10,000 counts
    x = np.log1p(per(1e4, counts(genes=genes)))[:, ::3].astype(np.float32)
    found, summary = ingested(tmp_path, x)
    assert np.array_equal(found.X.toarray(), x)
    said = "if the counts were divided by those, set scale: log1p_counts"
    assert said in summary["expression_known"]
    fewer = np.log1p(per(1e4, counts(genes=genes // 2)))[:, ::3].astype(np.float32)
    (tmp_path / "fewer").mkdir()
    assert said not in ingested(tmp_path / "fewer", fewer)[1]["expression_known"]
