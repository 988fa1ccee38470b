"""Cells of small panels, brought to another total than 10,000: said, and held to afterwards."""

import json

import anndata
import numpy as np
import pytest

from components.evaluate.evaluate import evaluate
from components.finetune.finetune import finetune
from components.finetune.given import check_total_of_effects
from components.ingest.ingest import ingest
from components.predict.predict import predict
from components.prior.prior import prior
from components.shared.artifacts.artifact import GENE_PRIOR, opening
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.normalisation import (
    check_asked,
    read_target_sum,
    total_of_model,
    unit_of,
)
from components.shared.artifacts.perturbation import CONTROL
from components.shared.findings.limitations import limitations
from components.shared.telling.errors import InputError
from components.split.split import split
from tests.finetune.screens import QUICK
from tests.ingest.files import counts, file_of, ingested, per

SCREEN = "sim://screen?cells=300&genes=40&perturbations=4&lines=3&seed=1"


def median_of_controls(raw):
    """Cells alternate between controls and perturbed ones."""
    return round(float(np.median(raw[::2].sum(axis=1))))


def test_the_median_is_that_of_controls_and_is_written_down(tmp_path, capsys):
    raw = counts()
    raw[1::2] *= 3  # what perturbed cells have must not count
    found, summary = ingested(tmp_path, raw, target_sum="median")
    total = median_of_controls(raw)
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(total, raw)), rtol=1e-4, atol=1e-5)
    assert summary["target_sum"] == found.uns["target_sum"] == total
    assert found.uns["normalisation"] == unit_of(total) == f"log1p of counts per {total:,}"
    assert Cells.open(tmp_path / "out").target_sum == total
    assert f"turned into log1p of counts per {total:,}" in capsys.readouterr().err


def test_the_median_of_logarithms_of_counts_is_that_of_their_counts(tmp_path):
    raw = counts()
    found, _ = ingested(tmp_path, np.log1p(raw), target_sum="median", scale="log1p_counts")
    total = median_of_controls(raw)
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(total, raw)), rtol=1e-4, atol=1e-5)


def test_several_files_have_one_median(tmp_path):
    one, two = counts(seed=0), 4 * counts(seed=1)
    paths = [str(file_of(tmp_path, one, "a.h5ad")), str(file_of(tmp_path, two, "b.h5ad"))]
    ingest(paths, tmp_path / "out", target_sum="median")
    found = anndata.read_h5ad(tmp_path / "out" / "cells.h5ad")
    assert found.uns["target_sum"] == median_of_controls(np.r_[one, two])
    totals = np.expm1(found.X.toarray()).sum(axis=1)
    np.testing.assert_allclose(totals, found.uns["target_sum"], rtol=1e-4)


@pytest.mark.parametrize("total", [500, 500.0, "500"])
@pytest.mark.parametrize(
    "x",
    [lambda raw: raw, lambda raw: np.log1p(per(1e4, raw)), lambda raw: np.log2(per(1e6, raw) + 1)],
)
def test_a_number_is_what_cells_add_up_to_whatever_they_were(tmp_path, x, total):
    raw = counts()
    found, summary = ingested(tmp_path, x(raw), target_sum=total)
    np.testing.assert_allclose(found.X.toarray(), np.log1p(per(500, raw)), rtol=2e-3, atol=1e-4)
    assert summary["target_sum"] == 500


def test_where_genes_were_left_out_the_rest_is_scaled_and_said(tmp_path):
    x = np.log1p(per(1e4, counts(genes=400)))[:, ::3]
    found, summary = ingested(tmp_path, x, target_sum=1000)
    np.testing.assert_allclose(found.X.toarray(), np.log1p(np.expm1(x) / 10), rtol=1e-3, atol=1e-4)
    assert "rather than 1,000, as where genes were left out" in summary["scale_caveat"]


def test_by_default_cells_are_as_they_were(tmp_path):
    found, summary = ingested(tmp_path, counts())
    assert summary["target_sum"] == found.uns["target_sum"] == 10_000
    assert found.uns["normalisation"] == "log1p of counts per 10,000"


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (lambda raw: np.log1p(per(1e4, raw)), {}, "needs the cells' raw counts, and X is log1p"),
        (lambda raw: per(1e4, raw), {}, "raw counts, and X is counts per 10,000; give raw counts"),
        (
            lambda raw: np.log1p(per(1e4, raw))[:, :40],
            {"expression": "log1p", "target_sum": 500},
            "set scale, as in scale: log1p_cp10k",
        ),
        (
            lambda raw: raw,
            {"target_sum": "mean"},
            "target_sum='mean': expected 'median', or a whole",
        ),
        (lambda raw: -raw, {}, "negative"),
    ],
)
def test_what_does_not_tell_its_depth_is_refused_in_one_line(tmp_path, x, options, message):
    with pytest.raises(InputError, match=message) as error:
        ingested(tmp_path, x(counts()), **{"target_sum": "median"} | options)
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["", "0", "-5", 0.5, "1e4", "2000000", "²"])
def test_a_total_that_is_none_is_refused(value):
    with pytest.raises(InputError, match="expected 'median', or a whole number from 1 to"):
        read_target_sum(value)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Folders with a model that was trained at the median depth, and what led to it."""
    folder = tmp_path_factory.mktemp("panel")
    ingest(SCREEN, folder / "cells", target_sum="median")
    ingest(SCREEN, folder / "usual")
    for cells in ("cells", "usual"):
        split(
            folder / cells,
            folder / f"splits of {cells}",
            train_lines=["k562", "jurkat"],
            test_line="hepg2",
        )
    genes = Cells.open(folder / "cells").genes
    vocabulary = {gene: i for i, gene in enumerate([*genes, "<pad>"])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    prior("none", "random://tiny", folder / "prior")
    train(folder, "cells", "model")
    predict(folder / "model", folder / "cells", folder / "splits of cells", folder / "predictions")
    return folder


def train(folder, cells, target, *, prior_of="prior", pretrained=""):
    finetune(
        folder / cells,
        folder / f"splits of {cells}",
        folder / prior_of,
        folder / target,
        pretrained=str(pretrained or f"random://tiny?vocabulary={folder / 'vocab.json'}"),
        recipe="smoke",
        overrides=QUICK,
    )
    return json.loads((folder / target / "training_stats.json").read_text())


def test_pages_say_what_expression_is(world, tmp_path):
    total = Cells.open(world / "cells").target_sum
    assert total < 5_000
    evaluate(
        world / "predictions", world / "cells", world / "splits of cells", tmp_path / "evaluation"
    )
    for page in ("report.html", "explorer.html"):
        text = (tmp_path / "evaluation" / page).read_text()
        assert f"log1p of counts per {total:,}" in text and "per 10,000" not in text


def test_a_model_is_not_applied_to_cells_on_another_scale(world, tmp_path):
    total = Cells.open(world / "cells").target_sum
    with pytest.raises(InputError) as error:
        predict(world / "model", world / "usual", world / "splits of usual", tmp_path / "out")
    said = str(error.value)
    assert f"trained on {unit_of(total)}, and these cells are log1p of counts per 10,000" in said
    assert said.endswith(f"ingest them with ingest_options.target_sum={total}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "found"),
    [({}, "log1p of counts per 10,000"), ({"target_sum": "median"}, "per their own median")],
)
def test_a_finished_model_refuses_before_cells_are_read(options, found):
    with pytest.raises(InputError, match=found) as error:
        check_asked(options, {"target_sum": 437}, "gs://b/model")
    assert str(error.value).endswith("ingest_options.target_sum=437")
    check_asked({"target_sum": "437"}, {"target_sum": 437}, "gs://b/model")
    check_asked({}, {}, "a model of before")


def test_pretrained_weights_of_another_scale_are_warned_of(world, capsys):
    total = Cells.open(world / "cells").target_sum
    assert total_of_model(json.loads((world / "model" / "args.json").read_text())) == total
    assert total_of_model({}) == 10_000
    stats = train(world, "usual", "again", pretrained=world / "model")
    assert f"WARNING: The pretrained weights are of {unit_of(total)}" in capsys.readouterr().err
    metrics = {"scored": False, "perturbations": 6}
    assert stats["other_scale"] in limitations(stats, metrics, metrics, {"test_line": "hepg2"})


def test_effects_that_were_measured_on_another_scale_are_refused(world):
    cells = Cells.open(world / "cells")
    for name, file in (("other", "usual"), ("same", "cells/cells.h5ad")):
        prior(f"effects:{world / file}", "random://tiny", world / name)
    with pytest.raises(InputError, match="measured on log1p of counts per 10,000, and these cells"):
        check_total_of_effects(opening(world / "other", GENE_PRIOR), cells)
    check_total_of_effects(opening(world / "same", GENE_PRIOR), cells)


def test_a_median_needs_controls_with_counts(tmp_path):
    raw = counts()
    raw[::2] = 0
    with pytest.raises(InputError, match="needs control cells with counts"):
        ingested(tmp_path, raw, target_sum="median", control=CONTROL)
