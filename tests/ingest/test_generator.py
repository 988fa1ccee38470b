"""The generated screen: it is what it says it is, and like a real one where that was measured."""

import json
import re
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.ingest.generator import screen as drawing
from components.ingest.generator.real import calibration, symbols
from components.ingest.generator.screen import Screen, write_raw
from components.ingest.generator.spec import KEYS, LINES, Spec
from components.ingest.generator.truth import design, expected_shares
from components.ingest.ingest import ingest
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL
from components.shared.model.vocabulary import packaged_vocabulary
from components.shared.telling.errors import InputError

URI = "sim://screen?cells=6000&genes=400&perturbations=24&seed=3"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screen") / "cells"
    ingest(URI, folder)
    return folder


@lru_cache
def truth_of(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "truth.npz", allow_pickle=False) as file:
        return dict(file)


def pseudobulks(folder: Path, part: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Deltas of (line, perturbation) [L, P, G] over all cells, or over one half of them (1, 2)."""
    cells, truth = Cells.open(folder), truth_of(folder)
    rng = np.random.default_rng(0)
    half = rng.integers(1, 3, len(cells.obs))
    lines, names = list(truth["lines"]), [*truth["perturbations"], CONTROL]
    group = np.array([lines.index(line) for line in cells.obs["cell_line"]]) * len(names)
    group += np.array([names.index(name) for name in cells.obs["perturbation"]])
    if part:
        group[half != part] = -1
    mean = cells.group_means(group, len(lines) * len(names)).reshape(len(lines), len(names), -1)
    return mean[:, :-1] - mean[:, -1:], mean[:, -1]


def test_counts_lines_controls_and_targets_are_as_asked(made: Path) -> None:
    summary = json.loads((made / "provenance.json").read_text())["summary"]
    assert summary["cells"] == 6000
    assert summary["genes"] == 400
    assert summary["lines"] == dict.fromkeys(sorted(LINES), 1500)
    assert set(summary["controls"].values()) == {150}
    assert summary["perturbations"] == 24
    assert summary["perturbed_genes_not_measured"] == round(0.15 * 24)
    assert summary["expression"] == "counts"
    assert summary["cells_without_counts"] == 0


def test_same_uri_same_cells_and_another_seed_other_cells(tmp_path: Path) -> None:
    uri = "sim://screen?cells=900&genes=60&perturbations=6&lines=2"
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        ingest(uri, tmp_path / name, seed=seed)
    ingest(f"{uri}&seed=1", tmp_path / "d", seed=9)
    a, b, c, d = (anndata.read_h5ad(tmp_path / name / "cells.h5ad") for name in "abcd")
    for other in (b, d):
        assert (a.X != other.X).nnz == 0
        assert a.obs.equals(other.obs)
        assert list(a.var_names) == list(other.var_names)
    assert list(a.var_names) != list(c.var_names)
    for name, array in truth_of(tmp_path / "a").items():
        assert np.array_equal(array, truth_of(tmp_path / "b")[name]), name


def test_a_filter_keeps_the_very_cells_of_the_whole_screen(tmp_path: Path) -> None:
    uri = "sim://screen?cells=900&genes=60&perturbations=6&lines=2"
    ingest(uri, tmp_path / "all")
    ingest(uri, tmp_path / "some", obs_filter={"cell_line": "jurkat"})
    whole, some = (anndata.read_h5ad(tmp_path / n / "cells.h5ad") for n in ("all", "some"))
    assert (whole[some.obs_names].X != some.X).nnz == 0
    assert set(some.obs["cell_line"]) == {"jurkat"}


def test_file_on_the_way_gives_the_same_cells(tmp_path: Path) -> None:
    uri = "sim://screen?cells=900&genes=60&perturbations=6&lines=k562,rpe1&seed=4"
    command = [sys.executable, "-m", "components.ingest.generator", uri, str(tmp_path / "raw.h5ad")]
    subprocess.run(command, check=True, capture_output=True)
    raw = anndata.read_h5ad(tmp_path / "raw.h5ad")
    assert list(raw.obs.columns) == ["gene", "cell_line"]
    assert (raw.X.data == np.rint(raw.X.data)).all()
    ingest(uri, tmp_path / "direct")
    ingest(str(tmp_path / "raw.h5ad"), tmp_path / "by file")
    direct, by_file = (
        anndata.read_h5ad(tmp_path / n / "cells.h5ad") for n in ("direct", "by file")
    )
    assert (direct.X != by_file.X).nnz == 0
    assert direct.obs.equals(by_file.obs)


def test_write_raw_does_not_overwrite(tmp_path: Path) -> None:
    (tmp_path / "raw.h5ad").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_raw(URI, tmp_path / "raw.h5ad")
    assert (tmp_path / "raw.h5ad").read_text() == "mine"


def test_symbols_are_plain_many_and_all_in_the_vocabulary() -> None:
    names = symbols().tolist()
    assert len(names) == len(set(names)) >= 8000
    assert set(names) <= set(packaged_vocabulary())
    odd = [name for name in names if re.match(r"(LINC|RP11|AC\d{5}|AL\d{5}|MIR\d|MT-|ENSG)", name)]
    assert odd == []


def test_cell_names_differ_and_tell_the_line(made: Path) -> None:
    obs = Cells.open(made).obs
    assert obs.index.is_unique
    assert obs.index.str.fullmatch(r"[ACGT]{16}-1-(k562|jurkat|hepg2|rpe1)").all()
    assert [name.split("-")[-1] for name in obs.index] == list(obs["cell_line"])


def test_measured_targets_are_knocked_down_by_80_percent_or_more() -> None:
    plan = design(Spec.from_uri(URI))
    genes = plan.genes.tolist()
    for line in range(4):
        shares = expected_shares(plan, line)
        for row, target in enumerate(plan.targets):
            if target in genes:
                gene = genes.index(target)
                # Others rise or fall with the sum of all, hence a little slack.
                assert shares[row, gene] < 0.3 * shares[-1, gene]
    assert (plan.left <= 0.2).all()


def test_knock_down_is_seen_in_the_cells(made: Path) -> None:
    truth, (delta, control) = truth_of(made), pseudobulks(made)
    genes = truth["genes"].tolist()
    seen = [
        delta[line, p, genes.index(name)] / control[line, genes.index(name)]
        for p, name in enumerate(truth["perturbations"].tolist())
        for line in range(4)
        if name in genes and truth["present"][line, p] and control[line, genes.index(name)] > 0.5
    ]
    assert len(seen) > 20
    assert np.median(seen) < -0.6


def test_a_fifth_has_no_effect_but_on_the_target() -> None:
    uri = "sim://screen?cells=12000&genes=300&perturbations=100&lines=2"
    plan = design(Spec.from_uri(uri))
    without = plan.module < 0
    assert without.sum() == 20
    for line in range(2):
        shares = expected_shares(plan, line)
        change = np.log(shares[:-1] / shares[-1])
        for row in np.flatnonzero(without):
            others = change[row][plan.genes != plan.targets[row]]
            assert np.ptp(others) < 1e-9
        assert (change[~without].std(axis=1) > 0.05).all()


def test_effects_are_learnable_and_not_perfect(made: Path) -> None:
    truth, (delta, _) = truth_of(made), pseudobulks(made)
    first, second = pseudobulks(made, 1)[0], pseudobulks(made, 2)[0]
    pairs = [(line, p) for line in range(4) for p in range(24) if truth["present"][line, p]]
    other = {p: truth["genes"] != name for p, name in enumerate(truth["perturbations"])}

    def correlation(a: np.ndarray, b: np.ndarray, effective: bool) -> float:
        found = [
            np.corrcoef(a[line, p][other[p]], b[line, p][other[p]])[0, 1]
            for line, p in pairs
            if truth["effective"][p] == effective
        ]
        return float(np.median(found))

    assert 0.4 < correlation(first, second, True) < 0.8
    assert abs(correlation(first, second, False)) < 0.15
    assert correlation(delta, truth["effects"], True) > 0.7
    effects = truth["effects"]
    transfer = [
        np.corrcoef(effects[1:, p].mean(axis=0), effects[0, p])[0, 1]
        for p in np.flatnonzero(truth["effective"])
    ]
    assert 0.5 < np.median(transfer) < 0.9


def test_baseline_of_the_cells_is_the_known_one_and_each_line_has_its_own(made: Path) -> None:
    truth, (_, control) = truth_of(made), pseudobulks(made)
    for line in range(4):
        assert np.corrcoef(control[line], truth["baseline"][line])[0, 1] > 0.97
        for other in range(line):
            between = np.corrcoef(truth["baseline"][line], truth["baseline"][other])[0, 1]
            assert 0.6 < between < 0.95


def test_truth_fits_the_cells(made: Path) -> None:
    truth, cells = truth_of(made), Cells.open(made)
    assert truth["effects"].shape == (4, 24, 400)
    assert truth["effects"].dtype == np.float32
    assert truth["genes"].tolist() == cells.genes
    assert set(truth["perturbations"]) == set(cells.obs["perturbation"]) - {CONTROL}
    assert truth["measured"].tolist() == [p in cells.genes for p in truth["perturbations"]]
    pairs = set(zip(cells.obs["cell_line"], cells.obs["perturbation"], strict=True))
    for line, name in enumerate(truth["lines"]):
        for p, perturbation in enumerate(truth["perturbations"]):
            assert ((name, perturbation) in pairs) == truth["present"][line, p]
    assert (truth["module"] >= 0).tolist() == truth["effective"].tolist()


def test_noise_is_negative_binomial_with_real_like_zeros_and_library_sizes() -> None:
    screen = Screen.from_uri("sim://screen?cells=4000&genes=2000&perturbations=10&lines=1")
    kept = screen.column("gene").eq(CONTROL).to_numpy()
    parts = [block for _, block in screen.blocks(kept)]
    counts = np.vstack([part.toarray() for part in parts])
    totals = counts.sum(axis=1)
    assert 0.3 < np.log(totals).std() < 0.55, "K562's library sizes have a log sd of 0.41"
    assert 0.3 < (counts == 0).mean() < 0.7
    # Library size taken out, what variance is left over Poisson's is mean**2 / size.
    scaled = counts / totals[:, None] * np.median(totals)
    mean = scaled.mean(axis=0)
    high = mean > 3
    over = (scaled.var(axis=0)[high] - mean[high]) / mean[high] ** 2
    wanted = 1 / screen.plan.size[high]
    assert np.corrcoef(np.log(np.maximum(over, 1e-3)), np.log(wanted))[0, 1] > 0.8
    assert calibration()["library_size"]["log_sd"] == pytest.approx(0.41, abs=0.01)


def test_a_line_is_the_same_beside_any_others() -> None:
    alone = design(Spec.from_uri("sim://screen?lines=rpe1"))
    among = design(Spec.from_uri("sim://screen?lines=k562,rpe1"))
    assert np.array_equal(alone.log_share[0], among.log_share[1])
    assert np.array_equal(expected_shares(alone, 0), expected_shares(among, 1))


def test_about_a_twentieth_of_the_pairs_is_missing_but_each_perturbation_is_somewhere() -> None:
    plan = design(Spec.from_uri("sim://screen?cells=12000&perturbations=400&genes=500"))
    assert 0.02 < plan.missing.mean() < 0.08
    assert plan.missing.sum(axis=0).max() == 1


@settings(max_examples=20, deadline=None)
@example(genes=20, perturbations=1, lines=2, extra=0, seed=249)  # one line would be without any
@given(
    genes=st.integers(20, 120),
    perturbations=st.integers(1, 150),
    lines=st.integers(1, 4),
    extra=st.integers(0, 300),
    seed=st.integers(0, 2**40),
)
def test_any_allowed_query_gives_a_whole_screen(
    genes: int, perturbations: int, lines: int, extra: int, seed: int
) -> None:
    cells = lines * (20 + 2 * perturbations) + extra
    screen = Screen.from_uri(
        f"sim://screen?cells={cells}&genes={genes}&perturbations={perturbations}"
        f"&lines={lines}&seed={seed}"
    )
    rows, sums = [], 0.0
    for part, block in screen.blocks(np.ones(cells, dtype=bool)):
        rows.append(part)
        assert block.shape == (len(part), genes)
        assert (block.data > 0).all()
        sums += block.sum()
    assert np.array_equal(np.concatenate(rows), np.arange(cells))
    assert sums > 0
    assert len(set(screen.plan.targets)) == perturbations
    assert len(set(screen.genes)) == genes
    line, label = screen.column("cell_line"), screen.column("gene")
    assert (label[line.eq(LINES[0])] == CONTROL).sum() >= 20
    assert set(label) == {*screen.plan.targets, CONTROL}


def test_memory_of_the_generator_is_one_block_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drawing, "ENTRIES_PER_DRAW", 50 * 100)
    screen = Screen.from_uri("sim://screen?cells=2000&genes=100&perturbations=5")
    sizes = [block.shape[0] for _, block in screen.blocks(np.ones(2000, dtype=bool))]
    assert max(sizes) == 50


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("screen?cell=100", "unknown key 'cell', nearest: 'cells'"),
        ("screen?colour=red", f"allowed: {', '.join(KEYS)}"),
        ("screen?cells=many", "cells=many: expected a whole number"),
        ("screen?cells=-5", "cells=-5"),
        ("screen?cells=1e4", "cells=1e4"),
        ("screen?cells=", "cells=: expected"),
        ("screen?genes=5", "expected a whole number from 20"),
        ("screen?genes=99999", "genes=99999"),
        ("screen?seed=-1", "seed=-1"),
        ("screen?lines=5", "lines=5"),
        ("screen?lines=k652", "nearest: 'k562'"),
        ("screen?lines=k562,k562", "named twice"),
        ("screen?cells=100", "too few for 24 perturbations in 4 lines; expected 272 or more"),
        ("screen?cells=900&cells=901", "given twice"),
        ("screen?cells", "key=value"),
        ("scren?cells=4000", "expected sim://screen?"),
        ("?cells=4000", "expected sim://screen?"),
    ],
)
def test_a_bad_query_is_told_in_one_line_and_nothing_is_written(
    tmp_path: Path, query: str, told: str
) -> None:
    with pytest.raises(InputError) as error:
        ingest(f"sim://{query}", tmp_path / "out")
    assert told in str(error.value)
    assert list(tmp_path.iterdir()) == []
