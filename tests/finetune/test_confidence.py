"""What to expect of predictions, learned from left-out lines; and the factor for their size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.finetune.confidence_fit import LEAST_SCALE, confidence
from components.finetune.cross_line_effects import known_effects
from components.finetune.deltas import LineDeltas
from components.finetune.left_out import Screen
from components.shared.artifacts.confidence import (
    CONFIDENCE_FILE,
    MEAN,
    MEASURED,
    Confidence,
    control_similarity,
)
from components.shared.artifacts.perturbation import CONTROL
from components.shared.artifacts.training_effects import TrainingEffects
from components.shared.telling.errors import InputError

GENES, PERTURBATIONS = 80, 60
CELLS = 20
COLUMNS = ["agreement", "known", "expected_pearson_delta", "expected_low", "expected_high"]


def screen(
    *, lines: int = 3, shared: float = 1.0, own: float = 0.5, noise: float = 0.3, seed: int = 0
) -> Screen:
    """Return a screen whose lines share ``shared`` of their effects, which differ in strength."""
    rng = np.random.default_rng(seed)
    labels = [CONTROL, *(f"P{i}" for i in range(PERTURBATIONS))]
    strength = rng.gamma(1.5, 0.5, (PERTURBATIONS, 1))
    common = shared * strength * rng.normal(size=(PERTURBATIONS, GENES))
    change = np.zeros((lines, len(labels), GENES))
    for line in range(lines):
        mine = own * strength * rng.normal(size=common.shape)
        change[line, 1:] = common + mine + noise * rng.normal(size=common.shape)
    there = np.ones((lines, len(labels)), bool)
    there[:, 0] = False
    names = [f"line{i}" for i in range(lines)]
    genes = [f"G{i}" for i in range(GENES)]
    deltas = LineDeltas(names, change, np.full_like(change, noise**2), there)
    effects = TrainingEffects(
        names,
        labels[1:],
        genes,
        change[:, 1:],
        np.full((lines, PERTURBATIONS), CELLS),
        np.abs(rng.normal(1, 0.5, GENES)) + 0.05 * rng.random((lines, GENES)),
    )
    return Screen(labels, genes, [deltas], None, effects)


def test_expectations_rise_with_what_lines_agree_on_and_hold_for_a_line_never_seen() -> None:
    whole = screen(lines=4)
    deltas = whole.deltas[0]
    kept = LineDeltas(deltas.lines[:3], *(x[:3] for x in list(vars(deltas).values())[1:]))
    of = whole.training
    training = TrainingEffects(
        of.lines[:3], of.perturbations, of.genes, of.change[:3], of.cells[:3], of.control[:3]
    )
    found = confidence(Screen(whole.labels, whole.genes, [kept], None, training))
    similarity = control_similarity(of.control[3], of.genes, training)
    table = found.expected(of.perturbations, similarity)
    assert list(table.columns) == COLUMNS and set(table["known"]) == {MEASURED}
    told = kept.change[:, 1:].mean(axis=0)
    pairs = zip(told, of.change[3], strict=True)
    reached = pd.Series([np.corrcoef(a, b)[0, 1] for a, b in pairs])
    expected = table["expected_pearson_delta"].reset_index(drop=True)
    assert expected.corr(reached, method="spearman") > 0.6
    assert abs(expected.mean() - reached.mean()) < 0.08
    low, high = (table[f"expected_{x}"].to_numpy() for x in ("low", "high"))
    assert ((reached >= low) & (reached <= high)).mean() > 0.7


@pytest.mark.parametrize("seed", range(3))
def test_where_lines_share_nothing_nothing_is_expected(seed: int) -> None:
    found = confidence(screen(shared=0.0, seed=seed))
    table = found.expected([f"P{i}" for i in range(PERTURBATIONS)], 0.95)
    assert table["expected_pearson_delta"].abs().max() < 0.08
    assert abs(found.reached() or 0.0) < 0.05
    assert LEAST_SCALE <= found.scale < 0.3


def test_a_perturbation_that_no_line_has_is_expected_less_of_than_one_that_lines_agree_on() -> None:
    found = confidence(screen())
    table = found.expected(["P3", "NEW"], 0.95)
    assert table["known"].tolist() == [MEASURED, MEAN]
    trained, untrained = table["expected_pearson_delta"]
    assert untrained < trained - 0.2 and abs(untrained) < 0.15


@settings(max_examples=15, deadline=None)
@given(st.floats(0.1, 1.5), st.floats(0.0, 1.5), st.integers(0, 5))
def test_the_factor_lies_within_its_bounds_and_grows_with_what_lines_share(shared, own, seed):
    found = confidence(screen(shared=shared, own=own, seed=seed))
    more = confidence(screen(shared=shared, own=own + 1.0, seed=seed))
    assert LEAST_SCALE <= more.scale <= found.scale <= 1.0


def test_the_factor_makes_what_is_told_nearer_in_size_to_a_line_never_seen() -> None:
    whole = screen(lines=4, shared=0.5, own=1.0)
    change = whole.deltas[0].change
    three = screen(lines=3, shared=0.5, own=1.0)
    scale = confidence(three).scale
    told, measured = change[:3, 1:].mean(axis=0), change[3, 1:]
    error = {s: np.square(measured - s * told).mean() for s in (0.0, scale, 1.0)}
    assert error[scale] < error[1.0] and error[scale] < error[0.0]


@pytest.mark.parametrize("lines", [1])
def test_one_line_tells_of_no_other_and_says_so(lines: int) -> None:
    found = confidence(screen(lines=lines))
    assert found.scale == 1.0 and "No training line can be left out" in found.scale_from
    assert "leaving out each training line" in found.why and found.held_out == []
    table = found.expected(["P1", "NEW"], 0.9)
    assert table[COLUMNS[2:]].isna().all().all()


def test_effects_of_one_line_that_a_model_is_given_are_made_as_large_as_they_were_measured() -> (
    None
):
    one = screen(lines=1)
    known = known_effects(one.labels, one.deltas, None)
    found = confidence(one, known)
    size = np.linalg.norm(found.scale * known.change[-1].numpy())
    assert found.scale > 1.0 and size == pytest.approx(np.linalg.norm(one.deltas[0].change), 1e-6)
    assert "as large, on the whole, as what was measured" in found.scale_from
    assert replace(found, scale=1.0, scale_from="").why == confidence(one).why


def test_each_line_is_left_out_once_trained_and_untrained_apart() -> None:
    found = confidence(screen())
    assert [row.line for row in found.held_out] == ["line0", "line1", "line2"]
    for row in found.held_out:
        assert row.perturbations == row.untrained == PERTURBATIONS
        assert row.pearson_delta and row.untrained_pearson_delta is not None
        assert row.pearson_delta > row.untrained_pearson_delta + 0.3


def test_what_was_learned_is_read_back_and_expects_the_same(tmp_path: Path) -> None:
    found = confidence(screen())
    found.write(tmp_path / CONFIDENCE_FILE)
    again = Confidence.read(tmp_path / CONFIDENCE_FILE)
    labels = ["P0", "P7", "NEW"]
    pd.testing.assert_frame_equal(
        found.expected(labels, 0.9), again.expected(labels, 0.9), rtol=1e-4
    )
    assert (again.scale, again.held_out) == (found.scale, found.held_out)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: "",
        lambda content: "[]",
        lambda content: json.dumps({**content, "scale": "large"}),
        lambda content: json.dumps({**content, "scale": -1.0}),
        lambda content: json.dumps({k: v for k, v in content.items() if k != "held_out"}),
        lambda content: json.dumps({**content, "perturbations": {"label": ["A"]}}),
        lambda content: json.dumps({**content, "expectations": {"measured": {"weights": 3}}}),
    ],
)
def test_a_file_that_is_not_what_was_written_is_one_line(tmp_path: Path, change) -> None:
    file = tmp_path / CONFIDENCE_FILE
    confidence(screen()).write(file)
    file.write_text(change(json.loads(file.read_text())))
    with pytest.raises(InputError, match="fine-tune again") as error:
        Confidence.read(file)
    assert "\n" not in str(error.value)


def test_controls_of_a_training_line_are_its_own_nearest() -> None:
    training = screen().training
    assert control_similarity(training.control[1], training.genes, training) == pytest.approx(1.0)
    genes = [*training.genes[:40], "X1", "X2"]
    some = control_similarity(np.r_[training.control[1][:40], 9, 0], genes, training)
    assert some == pytest.approx(1.0)
    assert np.isnan(control_similarity(np.ones(2), ["X1", "X2"], training))
