"""Batches made of sets, and the loss on what a set changes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from components.finetune.batches import divided, draw_pairs, epoch_pairs, steps
from components.finetune.data import moments
from components.finetune.deltas import line_deltas
from components.finetune.objective import (
    LEAST_SCORE,
    MOST_SCORE,
    delta_loss,
    measured_deltas,
    sets_of,
)
from components.finetune.validation import HeldOut
from components.shared.parameters.recipe import load_recipe
from tests.finetune.arrays import CPU, GENES, LINES, MOVED, training_data


def weighed(data):
    return measured_deltas(data, line_deltas(data))


def drawn(data, recipe, *, seed=0, epoch=1, first=0, deltas=None):
    pairs = draw_pairs(data, recipe, np.random.default_rng(seed))
    found = steps(data, pairs, recipe, seed, epoch, deltas, first=first)
    return pairs, [step.part(step.sets, CPU) for step in found]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 12), st.integers(1, 20), st.integers(1, 30), st.integers(0, 5))
def test_an_epoch_has_every_cell_once_in_sets_of_one_line_and_perturbation(
    set_size, batch_size, cells, seed
):
    data = training_data(cells=cells)
    recipe = load_recipe("default", {"set_size": set_size, "batch_size": batch_size})
    pairs, found = drawn(data, recipe, seed=seed, deltas=weighed(data))
    assert sum(len(batch.codes) for batch in found) == len(pairs)
    measured = torch.cat([batch.measured for batch in found])
    wanted = data.expression[torch.from_numpy(pairs.outputs)]
    assert sorted(measured.tolist()) == sorted(wanted.tolist())
    row_of = {tuple(row): i for i, row in enumerate(data.expression.tolist())}
    assert all(len(batch.codes) == batch_size for batch in found[:-1])
    for batch in found:
        outputs = [row_of[tuple(row)] for row in batch.measured.tolist()]
        inputs = [row_of[tuple(row)] for row in batch.inputs.tolist()]
        for shares in batch.sets.shares.numpy() > 0:
            members = np.flatnonzero(shares)
            assert 1 <= len(members) <= set_size
            assert len(set(batch.codes[members])) == 1
            lines = {data.line_of_row[rows[m]] for m in members for rows in (outputs, inputs)}
            assert len(lines) == 1


def test_rows_are_named_before_they_are_read():
    named: list[int] = []
    data = replace(training_data(cells=20), will_read=lambda rows: named.extend(rows.tolist()))
    recipe = load_recipe("default", {"set_size": 4, "batch_size": 8})
    line_deltas(data)
    controls = np.concatenate([*data.controls.values()])
    assert set(named) == {*data.train_rows, *controls}
    named.clear()
    pairs, _ = drawn(data, recipe)
    assert set(named) == {*pairs.inputs, *pairs.outputs}
    named.clear()
    HeldOut.of(data, recipe, 0)
    assert set(data.validation[0].rows) < set(named)


def test_one_seed_gives_the_same_batches_and_each_epoch_others():
    data = training_data()
    recipe = load_recipe("default", {"set_size": 4, "batch_size": 12, "max_genes": 8})
    _, one = drawn(data, recipe, seed=3)
    _, two = drawn(data, recipe, seed=3)
    _, other = drawn(data, recipe, seed=3, epoch=2)
    assert all(torch.equal(a.measured, b.measured) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one[0].measured, other[0].measured)


def test_an_epoch_is_gone_on_with_where_it_was_left():
    data = training_data()
    deltas = weighed(data)
    recipe = load_recipe("default", {"set_size": 4, "batch_size": 12, "max_genes": 8})
    _, whole = drawn(data, recipe, deltas=deltas)
    _, rest = drawn(data, recipe, deltas=deltas, first=2)
    assert len(rest) == len(whole) - 2
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.batch.values, b.batch.values)
        assert torch.equal(a.sets.change, b.sets.change)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 16), min_size=1, max_size=40), st.integers(1, 8))
def test_divided_sets_are_all_there_in_order_and_parts_differ_by_a_set_at_most(lengths, parts):
    sets = [np.full(length, number) for number, length in enumerate(lengths)]
    found = divided(sets, parts)
    assert len(found) == parts
    assert [s[0] for part in found for s in part] == list(range(len(sets)))
    fair = sum(lengths) / parts
    assert all(abs(sum(map(len, part)) - fair) <= max(lengths) for part in found)


def test_a_step_in_parts_has_the_same_cells_and_shares_add_up():
    data = training_data()
    recipe = load_recipe("default", {"set_size": 4, "batch_size": 12, "max_genes": 8})
    pairs = draw_pairs(data, recipe, np.random.default_rng(0))
    for step in steps(data, pairs, recipe, 0, 1, weighed(data)):
        whole = step.part(step.sets, CPU)
        parts = [step.part(part, CPU) for part in divided(step.sets, 3) if part]
        assert torch.equal(torch.cat([part.batch.values for part in parts]), whole.batch.values)
        assert torch.equal(torch.cat([part.sets.change for part in parts]), whole.sets.change)
        assert sum(part.share for part in parts) == pytest.approx(1.0)
        assert whole.share == 1.0


def test_single_cells_have_no_sets():
    recipe = load_recipe("reference", {"batch_size": 8})
    pairs, found = drawn(training_data(), recipe)
    assert [len(batch.codes) for batch in found[:-1]] == [8] * (len(found) - 1)
    assert sum(len(batch.codes) for batch in found) == len(pairs)
    assert all(batch.sets is None for batch in found)


def test_the_change_is_that_of_the_means_and_a_control_changes_nothing():
    data = training_data()
    deltas = weighed(data)
    for number, line in enumerate(LINES):
        rows = data.train_rows[
            (data.train_codes == 1) & (data.line_of_row[data.train_rows] == line)
        ]
        cells, controls = data.expression[rows], data.expression[data.controls[line]]
        torch.testing.assert_close(deltas.change[number, 1], cells.mean(0) - controls.mean(0))
    assert not deltas.change[:, 0].any()
    assert deltas.weight[:, 0].eq(1).all()


def test_weights_average_one_favour_what_moves_and_are_within_bounds():
    weight = weighed(training_data()).weight
    torch.testing.assert_close(weight.mean(2), torch.ones(2, 3))
    assert weight[:, 1].argmax(1).tolist() == [MOVED, MOVED]
    ratio = weight[:, 1].max(1).values / weight[:, 1].min(1).values
    assert (ratio <= MOST_SCORE / LEAST_SCORE + 1e-4).all()
    assert (ratio > 3).all()


def test_held_out_cells_reach_neither_changes_nor_weights():
    data = training_data()
    spoilt = data.expression.clone()
    spoilt[data.validation[0].rows] = torch.nan
    one, two = (
        weighed(data),
        weighed(replace(data, expression=spoilt)),
    )
    assert torch.equal(one.change, two.change)
    assert torch.equal(one.weight, two.weight)
    assert two.weight.isfinite().all()


@pytest.mark.parametrize("cells", [1, 2])
def test_few_cells_and_genes_that_do_not_vary_still_weigh_finitely(cells):
    data = training_data(cells=cells)
    data.expression[:, 7] = 0
    weight = weighed(data).weight
    assert weight.isfinite().all()
    assert (weight > 0).all()


def two_sets(genes: int = GENES):
    """A set of three cells of perturbation 1 and one of a single control."""
    deltas = weighed(training_data())
    window = np.arange(genes)
    sets = sets_of(deltas, np.array([0, 1]), np.array([1, 0]), np.array([3, 1]), window, CPU)
    return deltas, sets


def test_the_loss_is_zero_for_the_right_mean_whatever_the_cells():
    deltas, sets = two_sets()
    inputs = torch.rand(4, GENES)
    noise = torch.randn(3, GENES)
    output = inputs.clone()
    output[:3] += deltas.change[0, 1] + noise - noise.mean(0)
    assert delta_loss(output, inputs, sets) < 1e-10
    assert delta_loss(output + 0.1, inputs, sets) > 1e-3


def test_the_loss_weighs_genes_and_counts_sets_by_their_cells():
    deltas, sets = two_sets()
    inputs = torch.rand(4, GENES)
    off = (-deltas.change[0, 1]) ** 2  # no change is predicted for the three, 1.0 for the control
    output = inputs.clone()
    output[3] += 1.0
    wanted = 0.75 * (deltas.weight[0, 1] * off).mean() + 0.25 * 1.0
    torch.testing.assert_close(delta_loss(output, inputs, sets), wanted)
    still = inputs.clone().requires_grad_()
    delta_loss(still, inputs, sets).backward()
    assert still.grad[3].eq(0).all()
    assert still.grad[:3, MOVED].lt(0).all()


def pairs_of(data, seed=0, epoch=1, **changes):
    return epoch_pairs(data, load_recipe("default", changes), seed, epoch)


def test_a_controls_partner_is_another_control_itself_or_it_is_left_out():
    data = training_data(controls=200)

    def controls(partner):
        pairs = pairs_of(data, control_partner=partner)
        return pairs.inputs[pairs.codes == 0], pairs.outputs[pairs.codes == 0]

    inputs, outputs = controls("other")
    assert len(outputs) == 200 and (inputs == outputs).mean() < 0.05
    inputs, outputs = controls("self")
    assert len(outputs) == 200 and (inputs == outputs).all()
    assert not len(controls("none")[1])


def test_partners_are_drawn_anew_each_epoch_or_once_for_all():
    data = training_data(controls=60)
    for redraw in (True, False):
        one, two, again = (
            pairs_of(data, epoch=epoch, redraw_controls=redraw).inputs for epoch in (1, 2, 1)
        )
        assert (one == two).all() == (not redraw)
        assert (one == again).all()
        assert (one != pairs_of(data, seed=1, redraw_controls=redraw).inputs).any()


def sets_in(data, epoch, **changes):
    """Return the sets of an epoch in the order that they come in, as rows of measured cells."""
    recipe = load_recipe("default", {"batch_size": 16} | changes)
    pairs = draw_pairs(data, recipe, np.random.default_rng(0))
    found = [cells for step in steps(data, pairs, recipe, 0, epoch) for cells in step.sets]
    return pairs, found


def test_single_cells_come_in_another_order_each_epoch():
    data = training_data()
    orders = [
        np.concatenate(sets_in(data, epoch, set_size=0, delta_weight=0)[1]) for epoch in (1, 2)
    ]
    assert np.array_equal(*map(np.sort, orders))
    for order in orders:
        assert np.abs(np.diff(order)).mean() > len(order) / 6  # of a random one it is a third
    assert (orders[0] != orders[1]).any()


def test_which_cells_make_a_set_and_the_order_of_sets_are_drawn_each_epoch():
    data = training_data(cells=40, controls=80)
    together, groups = [], []
    for epoch in (1, 2):
        pairs, sets = sets_in(data, epoch, set_size=4)
        together.append({frozenset(cells.tolist()) for cells in sets})
        lines = data.line_numbers(pairs.outputs)
        groups.append([(lines[cells[0]], pairs.codes[cells[0]]) for cells in sets])
    assert len(together[0] & together[1]) < len(together[0]) / 4
    changes = sum(a != b for a, b in zip(groups[0], groups[0][1:], strict=False))
    assert changes > 2 * len(set(groups[0]))  # sorted, each group would come once
    assert groups[0] != groups[1]


def test_moments_are_the_mean_and_the_variance_of_a_sample():
    cells = torch.from_numpy(np.random.default_rng(0).normal(2, 1, (2100, 3)))
    rows = np.arange(50, 2090)
    mean, variance = moments(cells, rows)
    np.testing.assert_allclose(mean, cells[rows].mean(0))
    np.testing.assert_allclose(variance, cells[rows].var(0, correction=1))
    few = moments(cells, rows[:2])[1]
    np.testing.assert_allclose(few, cells[rows[:2]].var(0, correction=1))


def test_a_delta_is_as_unsure_as_its_cells_and_the_controls_make_it_and_no_gene_is_still():
    data = training_data(cells=4)
    line = data.line_numbers(data.train_rows) == 0
    rows, controls = data.train_rows[line & (data.train_codes == 1)], data.controls["k562"]
    data.expression[rows, 7] = 0.0  # rare: not seen among four cells
    own = data.expression[rows].double().var(0).numpy()
    of_controls = data.expression[controls].double().var(0).numpy()
    found = line_deltas(data).variance[0, 1]
    assert own[7] == 0 and (own > of_controls).any() and (own[:7] < of_controls[:7]).any()
    at_least = np.maximum(own, of_controls)
    np.testing.assert_allclose(found, at_least / len(rows) + of_controls / len(controls))
