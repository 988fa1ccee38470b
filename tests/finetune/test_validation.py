"""What chooses the epoch: the scores of held-out sets, as cell-eval defines them."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from cell_eval._types import PerturbationAnndataPair
from cell_eval.metrics import _anndata as cell_eval
from torch import nn

from components.finetune import validation
from components.finetune.data import ValidationSet
from components.finetune.selection import discrimination, pearson
from components.finetune.validation import validate
from components.shared.parameters.recipe import load_recipe
from tests.finetune.arrays import CPU, GENES, training_data

SETTINGS = {"batch_size": 4, "predict_window": 0, "max_genes": 0, "set_size": 1}


class Knows(nn.Module):
    """Predicts the control cell plus a change that depends on which gene is flagged."""

    def __init__(self, change: dict[int, torch.Tensor]) -> None:
        super().__init__()
        self.change = change

    def forward(self, ids: torch.Tensor, values: torch.Tensor, flags: torch.Tensor) -> torch.Tensor:
        output = values.clone()
        for row, flag in enumerate(flags.expand(len(values), -1)):
            for gene in ids[flag.bool()].tolist():
                output[row] += self.change[gene][ids]
        return output


def with_sets(data, held_out):
    """Let (line, perturbation, code) be validated on, B never trained on."""
    trained = data.train_codes != 2
    codes = np.zeros(len(data.line_of_row), int)
    codes[data.train_rows] = data.train_codes
    codes[data.validation[0].rows] = 2
    sets = [
        ValidationSet(
            line,
            data.perturbations[code],
            np.flatnonzero((codes == code) & (data.line_of_row == line)),
        )
        for line, code in held_out
    ]
    return replace(
        data,
        train_rows=data.train_rows[trained],
        train_codes=data.train_codes[trained],
        validation=sets,
    )


def measured(data, held_out):
    return (
        data.expression[held_out.rows].double().mean(0).numpy() - data.reference_mean[held_out.line]
    )


def run(data, change, **settings):
    recipe = load_recipe("default", SETTINGS | settings)
    return validate(Knows(change), data, recipe, seed=0, device=CPU)


@pytest.fixture
def data():
    return with_sets(training_data(), [("jurkat", 1), ("jurkat", 2)])


def test_seen_and_unseen_perturbations_are_told_apart(data):
    seen, unseen = data.validation
    assert data.seen() == [seen]
    right = torch.tensor(measured(data, seen), dtype=torch.float32)
    wrong = torch.tensor(-3 * measured(data, unseen), dtype=torch.float32)
    found = run(data, {1: right, 5: wrong}, selection="best")
    assert found.pearson_delta_seen > 0.9
    assert found.pearson_delta_unseen < -0.5
    assert found.pearson_delta == pytest.approx(
        (found.pearson_delta_seen + found.pearson_delta_unseen) / 2
    )
    assert found.discrimination_seen == 1
    assert found.discrimination == (found.discrimination_seen + found.discrimination_unseen) / 2


def test_a_perfect_change_scores_what_the_noise_of_the_controls_leaves(data):
    change = {
        gene: data.expression[held_out.rows].mean(0) - data.expression[data.basal["jurkat"]].mean(0)
        for gene, held_out in zip((1, 5), data.validation, strict=True)
    }
    for cells in (0, 3):  # few inputs tell as much as many, since their stray is taken out
        found = run(data, change, validation_cells=cells)
        assert found.pearson_delta == pytest.approx(1, abs=1e-5)
        assert found.discrimination == 1
        assert found.loss > 0


def test_a_set_without_a_value_is_left_out_of_the_mean(data):
    flat = torch.zeros(GENES)
    still = replace(data, reference_mean={"jurkat": np.zeros(GENES)})
    still.expression[still.validation[1].rows] = 1.0
    found = run(still, {1: flat, 5: flat})
    assert np.isnan(found.pearson_delta_unseen)
    assert found.pearson_delta == found.pearson_delta_seen
    assert np.isfinite(found.pearson_delta)


def test_without_held_out_cells_there_are_no_scores(data):
    found = run(replace(data, validation=[]), {})
    assert found.correlations == found.weights == ()
    scores = [getattr(found, name) for name in vars(found) if name.startswith(("loss", "pearson"))]
    assert len(scores) == 4 and np.isnan(scores).all() and np.isnan(found.discrimination)


def test_a_set_counts_as_much_as_what_it_measured_is_no_noise(data):
    right = [torch.tensor(measured(data, one), dtype=torch.float32) for one in data.validation]
    change = {1: right[0], 5: -right[1]}
    equal, weighed = (run(data, change, selection=kind) for kind in ("best", "reliable"))
    assert equal.weights == (1.0, 1.0)
    first, second = weighed.weights
    assert 0 < first <= 1 and 0 <= second <= 1 and first != second
    one, other = weighed.correlations
    expected = (first * one + second * other) / (first + second)
    assert weighed.pearson_delta == pytest.approx(expected)
    assert weighed.discrimination == equal.discrimination


def test_what_is_not_finite_has_no_discrimination():
    measured = np.eye(3)
    predicted = measured.copy()
    predicted[1] = np.nan
    one, two, three = discrimination(predicted, measured, [np.array([], int)] * 3)
    assert np.isnan(two) and one == three == 1


def test_two_perturbations_are_told_apart_or_confused():
    measured, none = np.eye(2), [np.array([], int)] * 2
    assert discrimination(measured, measured, none) == [1.0, 1.0]
    assert discrimination(measured[::-1].copy(), measured, none) == [0.5, 0.5]


def test_a_line_with_one_set_has_no_discrimination(data):
    found = run(replace(data, validation=data.validation[:1]), {1: torch.zeros(GENES)})
    assert np.isnan(found.discrimination)
    assert np.isnan(found.pearson_delta_unseen)


def test_no_more_than_a_batch_of_cells_is_predicted_at_a_time(data, monkeypatch):
    sizes = []
    predict = validation.predict_cells

    def counted(model, basal, *rest, **more):
        sizes.append(len(basal))
        return predict(model, basal, *rest, **more)

    monkeypatch.setattr(validation, "predict_cells", counted)
    change = {1: torch.zeros(GENES), 5: torch.zeros(GENES)}
    run(data, change, validation_cells=0)
    assert max(sizes) == SETTINGS["batch_size"]
    assert sum(sizes) == sum(len(held_out.rows) for held_out in data.validation)


def test_scores_are_those_of_cell_eval():
    rng = np.random.default_rng(0)
    names, genes = [f"G{i}" for i in range(9)], [f"G{i}" for i in range(20)]
    control = rng.random(20)
    real = np.maximum(control + rng.normal(0, 0.4, (9, 20)), 0)
    pred = np.maximum(0.5 * (real + control) + rng.normal(0, 0.25, (9, 20)), 0)
    obs = pd.DataFrame({"p": [*names, "non-targeting"]}, index=[f"c{i}" for i in range(10)])
    var = pd.DataFrame(index=genes)
    pair = PerturbationAnndataPair(
        real=anndata.AnnData(np.vstack([real, control]), obs=obs, var=var),
        pred=anndata.AnnData(np.vstack([pred, control]), obs=obs.copy(), var=var),
        pert_col="p",
        control_pert="non-targeting",
    )
    ours = discrimination(pred - control, real - control, [np.array([i]) for i in range(9)])
    theirs = cell_eval.discrimination_score(pair, metric="l1")
    np.testing.assert_allclose(ours, [theirs[name] for name in names])
    assert min(ours) < 1
    deltas = cell_eval.pearson_delta(pair)
    np.testing.assert_allclose(
        list(map(pearson, pred - control, real - control)), [deltas[name] for name in names]
    )


def test_the_draws_are_those_of_the_seed(data, monkeypatch):
    predict, seen = validation.predict_cells, []

    def watched(model, basal, targets, ids, order, **more):
        seen.append((basal.tolist(), order.tolist()))
        return predict(model, basal, targets, ids, order, **more)

    monkeypatch.setattr(validation, "predict_cells", watched)
    recipe = load_recipe("default", SETTINGS | {"validation_cells": 4})
    model = Knows({1: torch.zeros(GENES), 5: torch.zeros(GENES)})
    drawn = []
    for seed in (0, 0, 1):
        seen.clear()
        validate(model, data, recipe, seed=seed, device=CPU)
        drawn.append(list(seen))
    assert drawn[0] == drawn[1]
    for one, other in zip(drawn[0], drawn[2], strict=True):
        assert one[0] != other[0] and one[1] != other[1]


def test_the_loss_is_the_mean_over_cells_and_genes(data):
    data.expression[:] = 0.25
    for held_out, value in zip(data.validation, (1.0, 0.75), strict=True):
        data.expression[held_out.rows] = value
    found = run(data, {1: torch.zeros(GENES), 5: torch.zeros(GENES)}, validation_cells=0)
    one, other = (len(held_out.rows) for held_out in data.validation)
    assert one != other
    assert found.loss == pytest.approx((one * 0.75**2 + other * 0.5**2) / (one + other))
