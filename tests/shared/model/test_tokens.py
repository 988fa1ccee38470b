import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.shared.model.tokens import (
    GeneTokens,
    Targets,
    assemble,
    prediction_windows,
    training_window,
)
from components.shared.telling.errors import InputError

VOCABULARY = {f"G{i}": 2 * i for i in range(40)} | {"X0": 101, "X1": 103, "<pad>": 100}


def targets(measured=(), unmeasured=()):
    return Targets(np.array(measured, np.int64), np.array(unmeasured, np.int64))


@st.composite
def window_cases(draw):
    n_genes = draw(st.integers(1, 60))
    some = st.lists(st.integers(0, n_genes - 1), max_size=3, unique=True)
    outside = st.lists(st.integers(100, 105), max_size=2, unique=True)
    sets = draw(st.lists(st.builds(targets, some, outside), max_size=5))
    return n_genes, draw(st.integers(0, 70)), sets, draw(st.integers(0, 99))


def test_genes_outside_the_vocabulary_are_left_out_and_the_rest_keep_their_columns():
    tokens = GeneTokens.of(["G3", "nope", "G1"], VOCABULARY)
    assert tokens.columns.tolist() == [0, 2]
    assert tokens.ids.tolist() == [6, 2]


def test_no_gene_in_the_vocabulary_is_refused_with_examples_of_both():
    with pytest.raises(InputError, match=r"'ENSG1'.*'G0'"):
        GeneTokens.of(["ENSG1", "ENSG2"], VOCABULARY)


def test_targets_of_a_double_are_split_into_measured_and_unmeasured():
    tokens = GeneTokens.of(["G3", "G1"], VOCABULARY)
    both = tokens.targets("G1+X0", token_for_unmeasured=True)
    assert (both.measured.tolist(), both.unmeasured.tolist()) == ([1], [101])
    without = tokens.targets("X0", token_for_unmeasured=False)
    assert not without.flagged
    assert not tokens.targets("unheard-of", token_for_unmeasured=True).flagged


@settings(deadline=None)
@given(case=window_cases())
def test_a_training_window_keeps_every_target_and_its_size(case):
    n_genes, size, sets, seed = case
    window = training_window(n_genes, size, sets, np.random.default_rng(seed), keep=True)
    assert len(set(window.genes.tolist())) == len(window.genes)
    for target in sets:
        assert set(target.measured.tolist()) <= set(window.genes.tolist())
        assert set(target.unmeasured.tolist()) <= set(window.extra.tolist())
    kept = len({g for t in sets for g in t.measured.tolist()})
    if size:
        room = max(size - len(window.extra), (size + 1) // 2)  # targets leave half to the genes
        assert min(room, n_genes) <= len(window.genes) <= max(room, kept)
    else:
        assert len(window.genes) == n_genes


def test_many_unmeasured_targets_leave_half_the_window_to_genes():
    sets = [targets(unmeasured=[100 + i]) for i in range(50)]
    window = training_window(400, 20, sets, np.random.default_rng(0), keep=True)
    assert (len(window.genes), len(window.extra)) == (10, 50)
    order = np.arange(400)
    assert sum(1 for _ in prediction_windows(400, 20, sets, order)) == 40


def test_a_window_that_does_not_keep_targets_loses_most_flags():
    rng = np.random.default_rng(0)
    lost = sum(
        0 not in training_window(400, 100, [targets([0])], rng, keep=False).genes
        for _ in range(200)
    )
    assert 120 < lost < 180  # three quarters, as in the reference run's 1,536 of 6,546


@settings(deadline=None)
@given(case=window_cases())
def test_prediction_windows_take_each_gene_once_with_every_target_present(case):
    n_genes, size, sets, seed = case
    order = np.random.default_rng(seed).permutation(n_genes)
    taken = []
    for window, fresh in prediction_windows(n_genes, size, sets, order):
        assert set(fresh.tolist()) <= set(window.genes.tolist())
        assert (np.diff(window.genes) > 0).all()
        for target in sets:
            assert set(target.measured.tolist()) <= set(window.genes.tolist())
        taken.extend(fresh.tolist())
    assert sorted(taken) == list(range(n_genes))


def test_a_batch_has_the_flags_on_the_targets_tokens_only():
    ids = np.arange(10, 16)
    sets = [targets([1, 4]), targets(), targets([2], [101])]
    window = training_window(6, 0, sets, np.random.default_rng(0), keep=True)
    basal = torch.arange(18.0).reshape(3, 6)
    batch = assemble(basal, sets, window, ids, torch.device("cpu"))
    assert batch.ids.tolist() == [10, 11, 12, 13, 14, 15, 101]
    assert batch.flags.tolist() == [
        [0, 1, 0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0, 1],
    ]
    torch.testing.assert_close(batch.values[:, :6], basal)
    assert batch.values[:, 6].eq(0).all()


def test_a_target_outside_the_window_gets_no_flag():
    ids = np.arange(6)
    rng = np.random.default_rng(1)
    window = training_window(6, 2, [targets([0])], rng, keep=False)
    batch = assemble(torch.ones(1, 6), [targets([0])], window, ids, torch.device("cpu"))
    assert bool(batch.flags.any()) == (0 in window.genes)


def test_genes_that_the_model_was_not_trained_on_are_refused_with_three_of_each():
    genes = [f"G{i}" for i in range(5)]
    with pytest.raises(InputError) as refused:
        GeneTokens.of(genes, VOCABULARY, trained=[f"G{i}" for i in range(10, 16)])
    assert str(refused.value) == (
        "none of the 5 genes ('G0', 'G1', 'G2' and 2 more) is among those that the model was "
        "trained on ('G10', 'G11', 'G12' and 3 more)"
    )
