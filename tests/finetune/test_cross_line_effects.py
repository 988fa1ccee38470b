"""Known effects: what a line may know from others, and a model that departs from it."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from components.finetune.cross_line_effects import (
    known_effects,
    of_other_screens,
    others_of,
    vectors_of,
)
from components.finetune.deltas import LineDeltas, line_deltas
from components.finetune.finetune import finetune
from components.finetune.given import tell_lines
from components.finetune.near_by import near_by
from components.finetune.shrinkage import shrunk
from components.predict.predict import predict
from components.shared.artifacts.confidence import MEAN, MEASURED, NEAR_BY, SUMMED
from components.shared.artifacts.gene_prior import OtherEffects
from components.shared.artifacts.known_effects import EffectTable
from components.shared.artifacts.predictions import KNOWN_MEANS, MEANS, PERTURBATIONS, Predictions
from components.shared.findings.limitations import limitations
from components.shared.model import model as scgpt_model
from components.shared.model.inference import predict_cells
from components.shared.model.tokens import Targets
from components.shared.telling.errors import InputError
from tests.finetune.arrays import CPU, training_data
from tests.finetune.interrupted import arguments, divide, interrupted_world
from tests.finetune.lines import GENES, LABELS, screens
from tests.finetune.screens import VOCABULARY, small_world, train, write_prior
from tests.publish.publish_run import ARGS


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return small_world(tmp_path_factory.mktemp("world"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100), st.integers(0, 2), st.booleans())
def test_a_line_never_sees_its_own_cells(seed, line, from_outside):
    _, own = screens(seed)
    _, other = screens(seed + 1, lines=("two", "four"))
    outside = [other] if from_outside else []
    spoilt = replace(own, change=own.change.copy(), variance=own.variance.copy())
    spoilt.change[line] += 7.0
    spoilt.variance[line] *= 3.0
    if from_outside and own.lines[line] == "two":
        other = replace(other, change=other.change + np.array([5.0, 0.0])[:, None, None])
    one = known_effects(LABELS, [own, *outside], None).change
    two = known_effects(LABELS, [spoilt, *([other] if from_outside else [])], None).change
    assert torch.equal(one[line], two[line])
    assert not torch.equal(one[-1], two[-1])


def test_a_lines_other_spellings_are_the_line():
    _, own = screens()
    _, other = screens(seed=1, lines=("T-W O", "four"))
    changed = replace(other, change=other.change + np.array([5.0, 0.0])[:, None, None])
    one, two = (known_effects(LABELS, [own, given], None).change for given in (other, changed))
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], two[0])


def test_a_gene_that_is_not_expressed_in_one_line_keeps_what_the_others_tell():
    true, own = screens(seed=3, noise=0.05, missing=())
    silent = np.arange(GENES) < GENES // 2
    own.change[0][:, silent] = own.variance[0][:, silent] = 0.0
    own.change[1][:, silent] *= 1e-3  # hardly expressed
    own.variance[1][:, silent] *= 1e-2
    found = known_effects(LABELS, [own], None).change[-1].numpy()
    assert np.corrcoef(found[1:, ~silent].ravel(), true[1:, ~silent].ravel())[0, 1] > 0.99
    told = np.abs(true) > 0.5
    ratio = found[told & silent] / true[told & silent]
    assert np.median(ratio) > 0.15  # the line where hardly anything can happen is not heard alone


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 100), st.integers(1, GENES - 5))
def test_genes_of_which_nothing_is_known_do_not_change_what_is_left_of_the_others(seed, unknown):
    rng = np.random.default_rng(seed)
    delta, variance = rng.normal(0, 1, (6, GENES)), np.full((6, GENES), 0.05)
    more = np.hstack([delta, np.zeros((6, unknown))])
    wider = np.hstack([variance, np.full((6, unknown), 1e6)])
    found = shrunk(more, wider)
    assert not found[:, GENES:].any()
    np.testing.assert_allclose(found[:, :GENES], shrunk(delta, variance), atol=0.05)


def test_of_the_only_line_each_perturbation_is_known_as_the_mean_of_all_others():
    _, own = screens(lines=("one",))
    _, other = screens(lines=("One",))
    for deltas in ([own], [own, other]):  # a line by another name is no other line
        found = known_effects(LABELS, deltas, None)
        there = own.there[0]
        rest = own.change[0][there].sum(axis=0) - own.change[0][1]
        np.testing.assert_allclose(found.change[0, 1], rest / (there.sum() - 1), atol=1e-6)
        assert set(found.origins[0]) == {MEAN} and not found.change[0, 0].any()
        assert found.origin[1] == MEASURED and found.change[-1, 1].any()


def test_a_line_without_training_cells_tells_the_others_nothing():
    _, own = screens(lines=("held out", "one"))
    own.change[0] += 5.0
    own.there[0] = False
    found = known_effects(LABELS, [own], None)
    assert set(found.origins[1]) == {MEAN}  # of its own others, not of the line held out
    assert np.abs(found.change[1].numpy()).max() < 1.0
    assert found.origins[0][1] == MEASURED  # told by the other
    own.there[1] = False
    with pytest.raises(InputError, match="no line has a perturbation with training cells"):
        known_effects(LABELS, [own], None)


def test_held_out_cells_reach_no_effect():
    data = training_data()
    spoilt = data.expression.clone()
    spoilt[data.validation[0].rows] = torch.nan
    one, two = line_deltas(data), line_deltas(replace(data, expression=spoilt))
    np.testing.assert_array_equal(one.change, two.change)
    assert not one.there[1, 2] and not one.there[:, 0].any()


def test_what_is_left_is_nearer_to_the_truth_and_as_large_as_the_signal():
    rng = np.random.default_rng(1)
    true = rng.normal(0, 1, (12, 2000)) * (rng.random((12, 2000)) < 0.05)
    variance = np.full_like(true, 0.04)
    delta = true + rng.normal(0, 0.2, true.shape)
    found = shrunk(delta, variance)
    assert np.square(found - true).mean() < 0.4 * np.square(delta - true).mean()
    norms = np.linalg.norm(found, axis=1) / np.linalg.norm(true, axis=1)
    assert np.all((norms > 0.85) & (norms < 1.15))
    for row in range(len(true)):
        kept, raw = (np.corrcoef(x[row], true[row])[0, 1] for x in (found, delta))
        assert kept > raw


def test_pure_noise_shrinks_and_a_sure_delta_stays():
    rng = np.random.default_rng(2)
    noise = rng.normal(0, 0.3, (5, 3000))
    assert np.abs(shrunk(noise, np.full_like(noise, 0.09))).mean() < 0.2 * np.abs(noise).mean()
    sure = rng.normal(0, 1.0, (5, 300))
    np.testing.assert_allclose(shrunk(sure, np.full_like(sure, 1e-6)), sure, rtol=1e-3, atol=1e-3)


def test_a_double_is_the_sum_and_an_unknown_one_the_mean_until_a_prior_knows_it():
    _, own = screens()
    found = known_effects(LABELS, [own], None)
    assert found.origin == [MEAN, *[MEASURED] * 5, SUMMED, MEAN]
    last = found.change[-1].numpy()
    np.testing.assert_allclose(last[6], last[1] + last[2], atol=1e-6)
    np.testing.assert_allclose(last[7], last[1:6].mean(axis=0), atol=1e-6)
    assert not last[0].any()


def test_a_prior_that_tells_what_goes_together_tells_of_an_unseen_perturbation():
    rng = np.random.default_rng(3)
    modules = rng.normal(size=(4, GENES))
    member = np.arange(40) % 4
    effects = modules[member] + rng.normal(0, 0.1, (40, GENES))
    vectors = np.eye(4)[member] + rng.normal(0, 0.05, (40, 4))
    there = np.arange(40) < 32
    near = near_by(effects[there], vectors[there])
    assert near is not None
    found = near.of(vectors)
    for row in range(32, 40):
        assert np.corrcoef(found[row], modules[member[row]])[0, 1] > 0.95


@pytest.mark.parametrize("seed", range(5))
def test_a_prior_that_tells_nothing_hardly_moves_the_mean(seed):
    rng = np.random.default_rng(seed)
    effects, vectors = rng.normal(size=(40, GENES)), rng.normal(size=(40, 6))
    there = np.arange(40) < 32
    near = near_by(effects[there], vectors[there])
    mean = effects[there].mean(axis=0)
    moved = np.zeros(1) if near is None else near.of(vectors[~there]) - mean
    assert np.square(moved).mean() < 0.1


def test_an_unseen_perturbation_with_a_vector_is_told_from_those_near_by():
    names = ["non-targeting", *(f"G{i}" for i in range(20))]
    rng = np.random.default_rng(4)
    modules = rng.normal(size=(2, GENES))
    member = np.arange(21) % 2
    true = modules[member]
    there = np.array([[0 < i < 20 for i in range(21)]] * 2)
    change = np.where(there[..., None], true + rng.normal(0, 0.05, (2, 21, GENES)), 0.0)
    own = LineDeltas(["one", "two"], change, np.full_like(change, 0.0025), there)
    vocabulary = {name: i for i, name in enumerate(names)}
    table = torch.from_numpy(np.eye(2)[member] + 0.01)
    vectors = vectors_of(names, table, vocabulary)
    found = known_effects(names, [own], vectors)
    assert found.origin[20] == NEAR_BY
    assert np.corrcoef(found.change[-1][20], modules[member[20]])[0, 1] > 0.95


def test_other_screens_count_as_lines_but_never_the_test_line_nor_a_line_of_the_same_name():
    _, own = screens(lines=("one", "two"))
    genes = [f"g{i}" for i in range(GENES)]
    other = OtherEffects(
        perturbations=["Z", "Z", "A", "nobody"],
        lines=["one", "test", "far", "far"],
        genes=["h", *genes[::-1]][:-1],
        delta=np.stack([np.full(GENES, value, np.float32) for value in (3, 9, 1, 5)]),
    )
    own = replace(own, targets=[np.array([i], np.int64) for i in range(len(LABELS))])
    found = of_other_screens(other, LABELS, genes, own, "Te-st")
    assert found.lines == ["far", "one"]
    assert found.targets == own.targets  # the same perturbations of the same genes
    assert found.there.sum() == 2 and np.isinf(found.variance[:, :, 0]).all()
    known = known_effects(LABELS, [own, found], None)
    z, last = LABELS.index("Z"), GENES - 1
    assert known.origin[z] == MEASURED
    assert abs(known.change[-1, z, 0]) < 0.1  # what other perturbations say of it
    assert known.change[-1, z, last] == pytest.approx(3, rel=0.2)
    # "one" does not see its own.
    assert known.change[1, z, last] > 1 > known.change[0, z, last]


def test_what_may_give_the_test_line_away_is_told(capsys):
    tell_lines(["RPE-1", "k562", ""], "gs://b/screen.parquet", "rpe1")
    said = capsys.readouterr()
    assert said.out == (
        "finetune: note: gs://b/screen.parquet tells of k562; none may be the test line 'rpe1' by "
        "another name\n"
    )
    left_out, unnamed = said.err.splitlines()
    assert "has cells of the test line 'RPE-1'; those are left out" in left_out
    assert "has rows that name no cell line" in unnamed


@pytest.mark.parametrize("window", [0, 8])
def test_before_training_the_model_is_the_known_effect(window):
    torch.manual_seed(0)
    model = scgpt_model.build(ARGS, VOCABULARY)
    scgpt_model.add_prior(model, torch.randn(len(VOCABULARY), 5), neutral=True)
    scgpt_model.give_effects(model)
    model.eval()
    basal, effects = torch.rand(3, 20), torch.randn(2, 20)
    none = np.empty(0, np.int64)
    targets = [Targets(np.array([4]), none), Targets(none, np.array([40]))]
    place = (np.arange(20), np.random.default_rng(0).permutation(20))
    given = {"window": window, "contrast": True, "device": CPU, "precision": "fp32"}
    for target, known in zip(targets, effects, strict=True):
        found = predict_cells(model, basal, [target], *place, effects=known[None], **given)
        torch.testing.assert_close(found, basal + known, atol=1e-5, rtol=0)


def test_scgpts_own_class_takes_no_effects(world, tmp_path):
    with pytest.raises(InputError, match="prior=effects needs implementation=ours"):
        train(world, tmp_path / "model", prior="effects", implementation="scgpt")


@pytest.fixture(scope="module")
def trained(world):
    return train(world, world / "model with effects", prior="effects", epochs=3, early_stop_after=9)


@pytest.fixture(scope="module", autouse=True)
def _priors(world):
    write_prior(world / "effects", None, effects={"uri": ""})
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(len(VOCABULARY), 8)))
    write_prior(world / "both", table.float(), effects={"uri": ""})


def test_a_step_moves_a_wide_prior_no_farther_than_a_narrow_one():
    moved = {}
    for width in (8, 256, 5120):
        torch.manual_seed(0)
        model = scgpt_model.build(ARGS, VOCABULARY)
        scgpt_model.add_prior(model, 3 * torch.randn(len(VOCABULARY), width), neutral=True)
        step = torch.optim.Adam(model.flag_prior.parameters(), lr=1e-3)
        model.flag_prior.folded()[0].sum().backward()
        step.step()
        moved[width] = model.flag_prior.folded()[0].abs().mean().item()
    assert moved[256] == pytest.approx(moved[8], rel=0.5)
    assert moved[5120] == pytest.approx(moved[8], rel=0.5)


def test_training_begins_with_the_known_effects_and_keeps_what_is_no_worse(trained):
    stats = json.loads((trained / "training_stats.json").read_text())
    assert [row["epoch"] for row in stats["history"]] == [0, 1, 2, 3]
    assert stats["history"][0]["train_loss"] is None
    assert stats["best_val_pearson_delta"] >= stats["history"][0]["val_pearson_delta"]
    assert stats["epochs_run"] == 3 and stats["cells_per_epoch"] > 0


def test_what_is_published_is_scgpts_checkpoint_and_what_goes_beyond_it(trained, world):
    state = torch.load(trained / "best_model.pt", weights_only=True)
    args = json.loads((trained / "args.json").read_text())
    plain = scgpt_model.build(args, VOCABULARY, "scgpt")
    plain.load_state_dict(state, strict=True)
    assert all(
        name.startswith("effect_encoder")
        for name in load_file(trained / "beyond_scgpt.safetensors")
    )


def test_predictions_say_what_the_known_effects_come_to_without_the_model(trained, world):
    predict(trained, world / "cells", world / "splits", world / "with effects")
    found = Predictions.open(world / "with effects").anndata
    assert found.varm[KNOWN_MEANS].shape == found.varm[MEANS].shape
    table = EffectTable.read(trained / "effects.safetensors")
    label = str(found.uns[PERTURBATIONS][0])
    assert label in table.perturbations and table.genes == list(found.var_names)


def test_a_prior_at_the_perturbed_gene_is_folded_and_predicts_as_trained(world):
    model = train(world, world / "model with both", prior="both", epochs=2)
    extra = load_file(model / "beyond_scgpt.safetensors")
    assert extra["flag_prior.weight"].shape == (len(VOCABULARY), 64)
    predict(model, world / "cells", world / "splits", world / "with both")
    assert np.isfinite(Predictions.open(world / "with both").anndata.varm[MEANS]).all()


@settings(max_examples=30, deadline=None)
@given(st.permutations(["G1", "G2", "G3"]), st.permutations(["P", "Q", "new"]))
def test_a_table_gives_each_gene_its_own_effect_in_any_order(genes, perturbations):
    table = EffectTable(
        ["P", "Q"], ["G3", "G1"], np.array([[3, 1], [30, 10]], np.float32), ["measured"] * 2
    )
    found = table.of(perturbations, genes)
    wanted = {"P": {"G1": 1, "G3": 3}, "Q": {"G1": 10, "G3": 30}, "new": {"G1": 5.5, "G3": 16.5}}
    for row, label in enumerate(perturbations):
        for column, gene in enumerate(genes):
            assert found[row, column] == wanted[label].get(gene, 0)


def test_a_perturbation_that_a_table_lacks_gets_the_mean_of_those_measured_not_of_the_control():
    change = np.array([[0, 0], [2, 4], [4, 8], [6, 12], [9, 9]], np.float32)
    origin = [MEAN, MEASURED, MEASURED, SUMMED, MEAN]
    table = EffectTable(["non-targeting", "P", "Q", "P+Q", "R"], ["G1", "G2"], change, origin)
    assert table.of(["new", "non-targeting"], ["G1", "G2"]).tolist() == [[3, 6], [0, 0]]


def test_a_damaged_table_is_refused_in_one_line(tmp_path):
    (tmp_path / "effects.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="no table of effects"):
        EffectTable.read(tmp_path / "effects.safetensors")


def test_what_is_left_has_the_norm_of_the_signal():
    rng = np.random.default_rng(5)
    true = rng.normal(0, 1, (6, 500)) * (rng.random((6, 500)) < 0.2)
    delta, variance = true + rng.normal(0, 0.5, true.shape), np.full_like(true, 0.25)
    signal = (np.square(delta) - variance).sum(axis=1)
    np.testing.assert_allclose(np.square(shrunk(delta, variance)).sum(axis=1), signal, rtol=1e-3)


def test_a_perturbation_is_shrunk_by_what_the_others_are_like():
    rng = np.random.default_rng(6)
    own = np.array([[2.5, 0.5, -0.5, 0.3, -0.8]])  # few genes tell little of themselves
    variance = np.ones((101, 5))
    quiet = np.concatenate([own, rng.normal(0, 1, (100, 5))])
    loud = np.concatenate([own, rng.normal(0, 6, (100, 5))])
    among_quiet, among_loud = (shrunk(delta, variance)[0] for delta in (quiet, loud))
    assert (np.abs(among_quiet) < 0.7 * np.abs(among_loud)).all()


def test_without_held_out_sets_known_effects_are_used_alone(tmp_path):
    made = interrupted_world(tmp_path)
    divide(made, "none held out", val_fraction=0.0)
    given = arguments(made, tmp_path / "model", "", prior=made / "effects")
    given |= {"splits": made / "none held out"}
    given |= {"overrides": {"epochs": 1, "contrast": True, "selection": "reliable"}}
    finetune(**given)
    stats = json.loads((tmp_path / "model" / "training_stats.json").read_text())
    assert (stats["network_weight"], stats["best_epoch"], stats["epochs_run"]) == (0.0, 0, 1)
    nothing = {"perturbations": 1, "scored": False}
    said = " ".join(limitations(stats, nothing, nothing, {"test_line": "rpe1"}))
    assert "1 epoch of 1 had no validation pearson_delta" in said


def test_lines_that_differ_by_a_sign_know_from_each_other():
    change = np.ones((3, 2, 4))
    there = np.array([[False, True]] * 3)
    deltas = [LineDeltas(["CD4+", "CD4-", "cd4 +"], change, change, there)]
    assert [i for _, i in others_of("CD4+", deltas)] == [1]
    assert [i for _, i in others_of("CD4-", deltas)] == [0, 2]
