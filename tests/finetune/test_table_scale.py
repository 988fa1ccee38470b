"""A table of known effects that holds scores: brought to scale, or refused in one line."""

import json

import numpy as np
import pandas as pd
import pytest

from components.finetune.cross_line_effects import known_effects, of_other_screens
from components.finetune.deltas import LineDeltas
from components.finetune.finetune import finetune
from components.finetune.table_scale import LEAST_SHARED, OFF, brought_to_scale
from components.prior.other_screens import read_deltas
from components.prior.prior import prior
from components.shared.artifacts.gene_prior import OtherEffects
from components.shared.findings.limitations import limitations
from components.shared.telling.errors import InputError
from components.split.split import split
from tests.finetune.screens import QUICK, VOCABULARY
from tests.helpers import cells_artifact, screen

GENES = [f"g{i}" for i in range(80)]
LABELS = ["non-targeting", *(f"P{i}" for i in range(30))]
SIZE, NOISE = 0.08, 0.03


def own_and_table(unit=1.0, shared=30, agreement=0.7, seed=0):
    """Two lines on scale, and another line's effects in a unit of their own."""
    rng = np.random.default_rng(seed)
    true = SIZE * rng.normal(size=(len(LABELS), len(GENES)))
    true[0] = 0
    change = true + NOISE * rng.normal(size=(2, *true.shape))
    there = np.ones((2, len(LABELS)), bool)
    there[:, 0], change[:, 0] = False, 0
    own = LineDeltas(["one", "two"], change, np.full_like(change, NOISE**2), there)
    rest = SIZE * np.sqrt(1 - agreement**2) * rng.normal(size=true.shape)
    values = (agreement * true + rest)[1:]
    names = [label if i < shared else f"other {label}" for i, label in enumerate(LABELS[1:])]
    table = OtherEffects(names, ["far"] * 30, GENES, (unit * values).astype(np.float32))
    return own, table


def brought(own, table, test_line="test"):
    return brought_to_scale(table, LABELS, GENES, own, test_line, "scores.parquet")


def factor_of(effects, table):
    """Return by what all values of a table were multiplied."""
    factor = float(np.square(effects.delta).sum() / np.square(table.delta).sum()) ** 0.5
    np.testing.assert_allclose(effects.delta, table.delta * factor, rtol=1e-5)
    return factor


@pytest.mark.parametrize("unit", [1.0, 1.44, 1 / 3, 3.0])
@pytest.mark.parametrize("shared", [30, 3])
@pytest.mark.parametrize("agreement", [0.7, 0.1, -0.5])
def test_deltas_of_another_line_are_left_as_they_are(unit, shared, agreement):
    own, table = own_and_table(unit, shared, agreement)
    effects, said = brought(own, table)
    assert effects is table and not said


@pytest.mark.parametrize("unit", [14.0, 100.0, 0.01])
def test_scores_are_brought_to_the_screens_scale_and_it_is_said(unit):
    own, table = own_and_table(unit)
    effects, said = brought(own, table)
    plain = known_effects(
        LABELS, [own, of_other_screens(own_and_table()[1], LABELS, GENES, own, "")], None
    )
    scaled = known_effects(LABELS, [own, of_other_screens(effects, LABELS, GENES, own, "")], None)
    factor = factor_of(effects, table)
    assert factor == pytest.approx(0.7 / unit, rel=0.15)
    both = [x.change[-1, 1:].numpy().ravel() for x in (plain, scaled)]
    assert np.corrcoef(both)[0, 1] > 0.99
    assert "scores.parquet is on another scale" in said
    assert f"times {factor:.3g}, by least squares over 30 shared effects" in said


def test_noise_of_the_screen_passes_for_no_scale():
    own, table = own_and_table()
    rng = np.random.default_rng(1)
    change = own.change + 20 * SIZE * rng.normal(size=own.change.shape) * own.there[..., None]
    noisy = LineDeltas(own.lines, change, np.full_like(change, (20 * SIZE) ** 2), own.there)
    assert brought(noisy, table) == (table, "")


def test_what_was_measured_on_cells_is_on_scale():
    own, table = own_and_table(100)
    measured = OtherEffects(
        table.perturbations, table.lines, GENES, table.delta, error=np.ones_like(table.delta)
    )
    assert brought(own, measured) == (measured, "")


def test_rows_of_the_test_line_tell_nothing_of_the_scale():
    own, table = own_and_table(100)
    assert brought(own, table, "F-AR") == (table, "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shared": LEAST_SHARED - 1}, "with 9 perturbations of the training lines too few"),
        ({"shared": 0}, r"with 0 perturbations .* \(10 needed\); expected deltas"),
        ({"agreement": 0.0}, "of 30 shared effects the table tells nothing of what"),
        ({"agreement": -0.7}, "tells the opposite of what the training lines measured"),
    ],
)
def test_a_scale_that_cannot_be_told_is_refused_in_one_line(options, message):
    own, table = own_and_table(10 * OFF, **options)
    with pytest.raises(InputError, match=message) as error:
        brought(own, table)
    assert "\n" not in str(error.value) and str(error.value).startswith("scores.parquet: ")


def written(path, values, genes):
    frame = pd.DataFrame(values, columns=genes)
    frame.insert(0, "perturbation", [f"P{i}" for i in range(len(values))])
    frame.to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("values_of", "side"),
    [
        (lambda z: np.argsort(np.argsort(z, axis=1), axis=1), "above"),
        (lambda z: 1 + np.argsort(np.argsort(z, axis=1), axis=1) / z.shape[1], "above"),
        (lambda z: -np.exp(-np.abs(z)), "below"),
    ],
    ids=["ranks", "shares", "one side"],
)
def test_a_table_whose_centre_is_not_zero_is_refused(tmp_path, values_of, side):
    scores = np.random.default_rng(0).normal(size=(4, len(GENES)))
    path = written(tmp_path / "t.parquet", values_of(scores).astype(float), GENES)
    with pytest.raises(InputError, match=f"of its values are {side} zero, as of ranks") as error:
        read_deltas(path, "t.parquet")
    assert "\n" not in str(error.value)
    assert read_deltas(written(path, scores, GENES), "t.parquet").delta.shape == scores.shape


def test_real_scores_come_to_scale_and_real_ranks_are_refused(tmp_path, shared_data):
    with np.load(shared_data / "op3_ranks.npz") as file:
        z, genes = file["Z"][..., :400], [str(gene) for gene in file["genes"][:400]]
    ranks = np.argsort(np.argsort(z[3], axis=1), axis=1).astype(float)
    with pytest.raises(InputError, match="above zero, as of ranks"):
        read_deltas(written(tmp_path / "t.parquet", ranks, genes), "t.parquet")
    table = read_deltas(written(tmp_path / "t.parquet", z[3], genes), "t.parquet")
    labels = ["non-targeting", *table.perturbations]
    change = np.zeros((3, len(labels), len(genes)))
    change[:, 1:] = SIZE * z[:3]
    there = np.ones((3, len(labels)), bool)
    there[:, 0] = False
    own = LineDeltas(["a", "b", "c"], change, np.full_like(change, NOISE**2), there)
    effects, _ = brought_to_scale(table, labels, genes, own, "test", "t.parquet")
    # As alike as cell types are, which is a fifth to a third.
    assert 0.1 * SIZE < factor_of(effects, table) < 0.6 * SIZE


@pytest.mark.parametrize("shared", [12, 8])
def test_a_fine_tune_says_in_statistics_and_log_what_it_did(tmp_path, shared, capsys):
    obs, x, genes = screen(
        perturbations=tuple(f"G{i}" for i in range(12)), genes=30, cells_each=8, controls_each=30
    )
    cells_artifact(tmp_path / "cells", obs, x, genes)
    lines = ["k562", "jurkat", "hepg2"]
    split(tmp_path / "cells", tmp_path / "splits", train_lines=lines, test_line="rpe1")
    prior(f"effects:{tmp_path / 'cells'}", "random://tiny", tmp_path / "measured")
    found = OtherEffects.read(tmp_path / "measured")
    rows = [i for i, line in enumerate(found.lines) if line == "rpe1"][:shared]
    frame = pd.DataFrame(50 * found.delta[rows], columns=found.genes)
    frame.insert(0, "perturbation", [found.perturbations[i] for i in rows])
    frame.insert(1, "cell_line", "far")
    frame.to_parquet(tmp_path / "scores.parquet")
    prior(f"effects:{tmp_path / 'scores.parquet'}", "random://tiny", tmp_path / "prior")
    (tmp_path / "vocab.json").write_text(json.dumps(VOCABULARY))

    def run():
        finetune(
            tmp_path / "cells",
            tmp_path / "splits",
            tmp_path / "prior",
            tmp_path / "model",
            pretrained=f"random://tiny?vocabulary={tmp_path / 'vocab.json'}",
            recipe="smoke",
            overrides=QUICK,
        )

    if shared < LEAST_SHARED:
        with pytest.raises(InputError, match="with 8 perturbations of the training lines too few"):
            run()
        return
    run()
    stats = json.loads((tmp_path / "model" / "training_stats.json").read_text())
    assert "by least squares over 12 shared effects" in stats["effects_scaled"]
    assert f"finetune: WARNING: {stats['effects_scaled']}" in capsys.readouterr().err
    nothing = {"scored": False, "perturbations": 0}
    assert stats["effects_scaled"] in limitations(stats, nothing, nothing, {})
