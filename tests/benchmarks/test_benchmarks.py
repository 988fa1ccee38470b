"""The speed benchmarks at the smallest sizes: they count right and compare the same function."""

import sys
from argparse import Namespace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import finetune, measure, predict
from components.shared.model.inference import forward

TINY = ["--device", "cpu", "--threads", "1", "--steps", "1", "--rounds", "1", "--batch", "2"]
TINY += ["--genes", "24", "--layers", "1", "--width", "8", "--heads", "2"]


@pytest.fixture(autouse=True)
def threads():
    """Leave the number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def table(module, options, monkeypatch, capsys):
    """Run a benchmark and return the cells of each row of its table."""
    monkeypatch.setattr(sys, "argv", ["benchmark", *TINY, *options])
    module.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    header, _, *rows = rows
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_operations_are_those_pytorch_counts():
    options = Namespace(
        width=16, heads=2, layers=3, dropout=0.0, genes=50, device=torch.device("cpu"), compile="no"
    )
    model = measure.our_model(options)
    batch, _ = finetune.random_batch(options, 4)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward(model, batch)
    assert counter.get_total_flops() == 4 * measure.forward_flops(options, 50)
    full = Namespace(**finetune.FULL)
    assert 348e9 < 3 * measure.forward_flops(full, full.genes) < 380e9


def test_training_is_compared_with_scgpts_module_at_equal_numerics(monkeypatch, capsys):
    rows = table(finetune, [], monkeypatch, capsys)
    assert [(row["side"], row["precision"]) for row in rows] == [
        ("scgpt", "fp32"),
        ("ours", "fp32"),
        ("ours", "bf16"),
    ]
    for row, most in zip(rows, (1e-5, 1e-5, 0.05), strict=True):
        assert float(row["error"]) < most
    assert all(float(row["cells/s"].replace(",", "")) > 0 for row in rows)


def test_prediction_is_compared_with_pred_perturb(monkeypatch, capsys):
    rows = table(predict, ["--window", "8", "--perturbations", "2"], monkeypatch, capsys)
    assert [row["side"] for row in rows] == [
        "pred_perturb",
        "cells, all at once",
        "cells, windows",
    ]
    assert float(rows[0]["error"]) < 1e-5 and float(rows[1]["error"]) < 1e-5


def test_our_side_runs_where_scgpt_does_not_import(monkeypatch, capsys):
    def absent():
        raise ImportError("No module named 'anndata'")

    monkeypatch.setattr(measure, "transformer_generator", absent)
    rows = table(finetune, ["--precision", "fp32"], monkeypatch, capsys)
    assert [row["side"] for row in rows] == ["ours"]
