"""The comparison of batches, failed knock-downs and lines' own responses, at its smallest."""

from pathlib import Path

import pytest

from benchmarks import cells


def test_each_way_is_scored_on_the_same_line_and_set_beside_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "sim://screen?cells=1600&genes=80&perturbations=10&lines=4&seed={seed}{more}"
    monkeypatch.setattr(cells, "SCREEN", small)
    found = cells.do("both", 1, tmp_path)
    assert set(found) == set(cells.WAYS)
    trained = {way: scores["training_cells"] for way, scores in found.items()}
    assert trained["default"] == trained["`match_batches`"] > trained["all three"]
    assert all(-1 <= scores["pearson_true"] <= 1 for scores in found.values())
    assert found["default"] != found["`match_batches`"]
    head, _, row = cells.table({"both": [found, found]}, "pearson_true")
    assert head.count("|") == row.count("|") == len(cells.WAYS) + 2
    usual = found["default"]["pearson_true"]
    added = found["`centre_lines`"]["pearson_true"] - usual
    assert f"| {usual:.3f} ± 0.000 |" in row and f"| {added:+.3f} ± 0.000 |" in row
