"""Cells against the controls of their own batch: partners, deltas of training and of baselines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from components.evaluate.inputs.training_lines import known_of_training
from components.finetune.batches import draw_pairs
from components.finetune.deltas import line_deltas
from components.finetune.finetune import finetune
from components.finetune.loading import batches_in_words, load_training_data
from components.ingest.ingest import ingest
from components.prior.prior import prior
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.matched_controls import LEAST_CONTROLS, batches_of, matched
from components.shared.artifacts.splits import TRAIN, Splits
from components.shared.artifacts.training_effects import (
    TRAINING_EFFECTS_FILE,
    TrainingEffects,
    is_matched,
    training_effects,
)
from components.shared.model.tokens import GeneTokens
from components.shared.parameters.recipe import load_recipe
from components.split.split import split
from tests.finetune.arrays import CPU, training_data

URI = "sim://screen?cells=4000&genes=120&perturbations=10&lines=3&seed=2&batches=2"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Cells, Splits]:
    folder = tmp_path_factory.mktemp("batches")
    ingest(URI, folder / "cells", batch_column="batch")
    split(
        folder / "cells",
        folder / "splits",
        train_lines=["k562", "jurkat"],
        test_line="hepg2",
        val_fraction=0.0,
    )
    cells = Cells.open(folder / "cells")
    return cells, Splits.open(folder / "splits", cells)


def data_of(made: tuple[Cells, Splits], *, match_batches: bool):
    cells, splits = made
    tokens = GeneTokens.of(cells.genes, {gene: i for i, gene in enumerate(cells.genes)})
    return load_training_data(
        cells, splits, tokens, CPU, token_for_unmeasured=True, match_batches=match_batches
    )


def test_each_cell_has_controls_of_its_batch_or_those_of_the_line():
    batches = np.array(["a"] * 12 + ["b"] * 12 + ["nan"] * 14)
    controls = np.r_[:11, 12:21, 24:36]  # of a 11, of b 9, of no batch 12
    rows = np.array([37, 23, 11, 22, 11])
    found = {
        batch: (against, places) for batch, against, places in matched(rows, controls, batches)
    }
    assert set(found) == {"a", ""}
    assert list(found["a"][0]) == list(range(11)) and list(found["a"][1]) == [2, 4]
    assert list(found[""][0]) == list(controls) and list(found[""][1]) == [0, 1, 3]
    assert LEAST_CONTROLS == 10
    ((batch, against, places),) = matched(rows, controls, None)
    assert (batch, list(against), list(places)) == ("", list(controls), [0, 1, 2, 3, 4])


def test_deltas_are_the_mean_over_cells_of_what_each_differs_from_its_batch(made):
    data = data_of(made, match_batches=True)
    found = line_deltas(data)
    expression, controls = data.expression.double().numpy(), data.controls["jurkat"]
    code = data.train_codes[data.line_of_row[data.train_rows] == "jurkat"][0]
    own = (data.train_codes == code) & (data.line_of_row[data.train_rows] == "jurkat")
    rows = data.train_rows[own]
    batches = data.batch_of_row
    mean = {
        x: expression[controls[batches[controls] == x]].mean(0)
        for x in np.unique(batches[controls])
    }
    expected = np.mean([expression[row] - mean[batches[row]] for row in rows], axis=0)
    np.testing.assert_allclose(found.change[1, code], expected, atol=1e-9)
    usual = line_deltas(data_of(made, match_batches=False))
    ratio = found.variance[1, code] / usual.variance[1, code]
    assert 0.5 < np.median(ratio) < 2.0


def test_without_it_nothing_moves(made):
    data = data_of(made, match_batches=False)
    assert data.batch_of_row is None
    one = np.full(len(data.line_of_row), "same")
    for name in ("change", "variance", "there"):
        usual, same = (
            getattr(line_deltas(x), name) for x in (data, replace(data, batch_of_row=one))
        )
        np.testing.assert_array_equal(usual, same)


def test_matched_deltas_are_nearer_to_the_truth(made):
    cells, splits = made
    truth = np.load(cells.artifact.path / "truth.npz")
    usual, own = (training_effects(cells, splits, match_batches=x) for x in (False, True))
    assert not usual.matched and own.matched

    def correlation(found: TrainingEffects) -> float:
        values = []
        for line, name in zip(*np.nonzero(found.cells), strict=True):
            place = list(truth["lines"]).index(found.lines[line])
            label = list(truth["perturbations"]).index(found.perturbations[name])
            if truth["effective"][label]:
                effect = truth["effects"][place, label]
                values.append(np.corrcoef(found.change[line, name], effect)[0, 1])
        return float(np.mean(values))

    assert correlation(own) > correlation(usual) + 0.01


def test_baselines_measure_as_training_does(made):
    cells, splits = made
    found = training_effects(cells, splits, match_batches=True)
    expression, batches = cells.rows(np.arange(len(cells.obs))).toarray(), batches_of(cells)
    table = splits.table
    name = found.perturbations[0]
    line = found.lines_of(name)[0]
    own = (table["role"] == TRAIN) & (table["perturbation"] == name) & (table["cell_line"] == line)
    reference = splits.reference(line)
    expected = np.mean(
        [
            expression[row] - expression[reference[batches[reference] == batches[row]]].mean(0)
            for row in np.flatnonzero(own)
        ],
        axis=0,
    )
    np.testing.assert_allclose(found.of(line, [name], found.genes)[0], expected, atol=1e-5)


def test_partners_are_of_the_same_batch(made):
    data = data_of(made, match_batches=True)
    pairs = draw_pairs(data, load_recipe("default", {}), np.random.default_rng(0))
    assert (data.batch_of_row[pairs.inputs] == data.batch_of_row[pairs.outputs]).all()
    assert (data.line_of_row[pairs.inputs] == data.line_of_row[pairs.outputs]).all()
    assert len(set(pairs.inputs)) > 100


def test_too_few_controls_and_no_batches_are_said(made):
    data = data_of(made, match_batches=True)
    assert ", 0 with those of their line" in batches_in_words(data)
    small = training_data(controls=14)
    assert "give ingest's option batch_column" in batches_in_words(small)
    alone = replace(small, batch_of_row=np.arange(len(small.line_of_row)).astype(str))
    assert "match_batches: 0 training cells" in batches_in_words(alone)
    np.testing.assert_array_equal(line_deltas(alone).change, line_deltas(small).change)


def test_the_setting_reaches_what_the_model_brings_and_the_baselines(made, tmp_path: Path, capsys):
    cells, splits = made
    places = cells.artifact.path, splits.artifact.path
    prior("effects", "random://tiny", tmp_path / "prior")
    small = {"epochs": 1, "batch_size": 64, "max_genes": 32, "predict_window": 32}
    for name, asked in (("on", True), ("off", False)):
        overrides = small | {"match_batches": asked, "validation_cells": 4}
        finetune(
            *places,
            tmp_path / "prior",
            tmp_path / name,
            pretrained="random://tiny",
            recipe="smoke",
            overrides=overrides,
        )
        assert is_matched(tmp_path / name / TRAINING_EFFECTS_FILE) is asked
        brought = TrainingEffects.read(tmp_path / name / TRAINING_EFFECTS_FILE)
        known = known_of_training(cells, splits, tmp_path / name)
        assert known is not None and brought.matched is known.matched is asked
        np.testing.assert_allclose(brought.change, known.change, atol=1e-6)
        assert ("own batch" in capsys.readouterr().out) is asked
