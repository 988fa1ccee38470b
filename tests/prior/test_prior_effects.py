"""`effects:<uri>`: deltas of other screens, from cells or a table, in the prior's artifact."""

import json
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from components.ingest.ingest import ingest
from components.prior import other_screens as effects_module
from components.prior.prior import prior
from components.shared.artifacts.artifact import GENE_PRIOR, opening
from components.shared.artifacts.cells import CELLS_FILE, Cells
from components.shared.artifacts.gene_prior import OtherEffects
from components.shared.storage.buckets import open_bucket
from components.shared.telling.errors import InputError
from tests.servers.stores import serving


def made(folder: Path, text: str) -> tuple[dict, OtherEffects]:
    prior(text, "random://tiny", folder)
    return opening(folder, GENE_PRIOR).summary, OtherEffects.read(folder)


@pytest.fixture(scope="module")
def screen(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("screen") / "cells"
    ingest("sim://screen?cells=1500&genes=60&perturbations=8&lines=2", folder)
    return folder


def test_the_deltas_of_cells_are_those_of_plain_means(screen, tmp_path, monkeypatch):
    monkeypatch.setattr(effects_module, "ROWS_AT_ONCE", 97)
    facts, found = made(tmp_path / "out", f"effects:{screen}")
    data = anndata.read_h5ad(screen / CELLS_FILE)
    x = data.X.toarray().astype(np.float64)
    assert found.genes == list(data.var_names)
    pairs = data.obs[~data.obs.is_control][["perturbation", "cell_line"]].drop_duplicates()
    asked = set(zip(pairs.perturbation, pairs.cell_line, strict=True))
    assert set(zip(found.perturbations, found.lines, strict=True)) == asked
    assert len(found.perturbations) == len(asked)
    for i, (label, line) in enumerate(zip(found.perturbations, found.lines, strict=True)):
        here = (data.obs.cell_line == line).to_numpy()
        own = x[here & (data.obs.perturbation == label).to_numpy()]
        basal = x[here & data.obs.is_control.to_numpy()]
        np.testing.assert_allclose(found.delta[i], own.mean(0) - basal.mean(0), atol=1e-6)
        spread = np.fmax(own.var(0, ddof=1), basal.var(0, ddof=1)) / len(own)
        spread += basal.var(0, ddof=1) / len(basal)
        np.testing.assert_allclose(found.error[i], np.sqrt(spread), atol=1e-5)
        assert found.cells[i] == len(own)
    assert facts["kind"] == "none" and facts["effects"]["with_errors"]
    assert facts["effects"]["perturbations"] == pairs.perturbation.nunique()
    assert facts["effects"]["cell_lines"] == sorted(pairs.cell_line.unique())
    assert facts["sources"][0]["kind"] == "effects"


def test_the_h5ad_file_alone_gives_the_same_beside_a_gene_prior(screen, tmp_path):
    _, whole = made(tmp_path / "whole", f"effects:{screen}")
    facts, alone = made(tmp_path / "alone", f"concat(effects:{screen / CELLS_FILE}, random:4)")
    np.testing.assert_array_equal(whole.delta, alone.delta)
    np.testing.assert_array_equal(whole.error, alone.error)
    assert (facts["kind"], facts["width"]) == ("random", 4)


def test_a_single_cell_varies_as_controls_do(tmp_path):
    x = np.array([[0, 1.0], [2, 1.0], [1, 3.0]], np.float32)
    obs = pd.DataFrame(
        {
            "perturbation": ["non-targeting", "non-targeting", "A"],
            "cell_line": "k562",
            "is_control": [True, True, False],
        },
        index=list("abc"),
    )
    anndata.AnnData(csr_matrix(x), obs, pd.DataFrame(index=["G1", "G2"])).write_h5ad(
        tmp_path / "screen.h5ad"
    )
    _, found = made(tmp_path / "out", f"effects:{tmp_path / 'screen.h5ad'}")
    np.testing.assert_allclose(found.delta, [[0, 2]])
    np.testing.assert_allclose(found.error, [[np.sqrt(2 + 2 / 2), 0]], rtol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    data=st.data(),
    n=st.integers(1, 5),
    with_lines=st.booleans(),
    with_cells=st.booleans(),
)
def test_a_table_of_deltas_is_kept_as_it_is(data, n, with_lines, with_cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deltas")
    values = np.random.default_rng(n).normal(size=(n + 1, 3)).astype(np.float32)
    frame = pd.DataFrame(values, columns=["G1", "G2", "cells of G3"])
    frame["perturbation"] = ["non-targeting", *(f"P{i}" for i in range(n))]
    if with_lines:
        frame["cell_line"] = data.draw(
            st.lists(st.sampled_from("xy"), min_size=n + 1, max_size=n + 1)
        )
    if with_cells:
        frame["cells"] = range(n + 1)
    order = data.draw(st.permutations(list(frame.columns)))
    rows = data.draw(st.permutations(range(n + 1)))
    frame.iloc[list(rows)][order].to_parquet(folder / "deltas.parquet")
    facts, found = made(folder / "out", f"effects:{folder / 'deltas.parquet'}")
    assert sorted(found.perturbations) == [f"P{i}" for i in range(n)]
    for i, label in enumerate(found.perturbations):
        row = frame[frame.perturbation == label].iloc[0]
        np.testing.assert_array_equal(found.delta[i], row[found.genes].to_numpy(np.float32))
        assert found.lines[i] == (row.cell_line if with_lines else "")
        assert found.cells is None or found.cells[i] == row.cells
    assert found.error is None and not facts["effects"]["with_errors"]
    assert (found.cells is None) != with_cells
    # What was written can be given again.
    _, again = made(folder / "again", f"effects:{folder / 'out' / 'effects.parquet'}")
    np.testing.assert_array_equal(again.delta, found.delta)


def deltas(**columns) -> pd.DataFrame:
    return pd.DataFrame({"perturbation": ["A", "B"], "G1": [0.5, 1.0], **columns})


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (deltas().drop(columns="perturbation"), "'perturbation' is missing; the file has 'G1'"),
        (deltas().drop(columns="G1"), "has no column of numbers; expected the deltas of a gene"),
        (deltas(note=["x", "y"]), "column 'note' is .*string; expected the deltas of a gene"),
        (deltas(perturbation=["A", "A"]), "perturbation 'A' comes twice in line ''"),
        (deltas(perturbation=["A", None]), "'perturbation' has an empty field"),
        (deltas(perturbation=["non-targeting"] * 2), "has no row of a perturbation"),
        (deltas(G1=[0.5, np.nan]), "perturbation 'B' has nan for gene 'G1'"),
        (deltas(G1=[0.5, 1e300]), "perturbation 'B' has inf for gene 'G1'"),
        (deltas().iloc[:0], "has no row of a perturbation"),
    ],
)
def test_a_table_that_is_none_is_told_in_one_line(tmp_path, frame, message):
    frame.to_parquet(tmp_path / "d.parquet")
    with pytest.raises(InputError, match=message) as error:
        made(tmp_path / "out", f"effects:{tmp_path / 'd.parquet'}")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_damaged_table_and_another_file_are_told(tmp_path, screen):
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no parquet")
    with pytest.raises(InputError, match="not readable as a table of deltas"):
        made(tmp_path / "out", f"effects:{tmp_path / 'd.parquet'}")
    (tmp_path / "d.csv").write_text("perturbation,G1\n")
    with pytest.raises(InputError, match=r"expected the folder of a cells artifact, or a file"):
        made(tmp_path / "out", f"effects:{tmp_path / 'd.csv'}")
    with pytest.raises(InputError, match=r"provenance\.json: no such file"):
        made(tmp_path / "out", f"effects:{tmp_path}")
    (tmp_path / "d.h5ad").write_bytes(b"no h5ad")
    with pytest.raises(InputError, match="cannot be opened, truncated or damaged"):
        made(tmp_path / "out", f"effects:{tmp_path / 'd.h5ad'}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.obs.drop(columns="is_control", inplace=True),
            "obs has no column 'is_control'",
        ),
        (
            lambda a: setattr(a, "X", a.X.toarray()),
            r"X is array, not a whole csr_matrix; expected CSR cells as ingest.*run ingest on it",
        ),
        (lambda a: setattr(a, "X", a.X * 40), "X has values outside 0 to 15"),
        (
            lambda a: a.obs.__setitem__("is_control", True),
            "is_control and the perturbation disagree",
        ),
    ],
)
def test_cells_that_cannot_be_used_are_told(screen, tmp_path, change, message):
    data = anndata.read_h5ad(screen / CELLS_FILE)
    change(data)
    data.write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(InputError, match=message) as error:
        made(tmp_path / "out", f"effects:{tmp_path / 'c.h5ad'}")
    # The file that was given, not where it was put to be read; no task of the pipeline made it.
    assert str(tmp_path / "c.h5ad") in str(error.value)
    assert "ingest task again" not in str(error.value)


@pytest.mark.parametrize(
    ("kept", "message"),
    [("~is_control", "no two control cells to compare with"), ("is_control", "no perturbed cells")],
)
def test_a_screen_needs_perturbed_cells_and_controls(screen, tmp_path, kept, message):
    data = anndata.read_h5ad(screen / CELLS_FILE)
    data[data.obs.eval(kept)].write_h5ad(tmp_path / "c.h5ad")
    with pytest.raises(InputError, match=message):
        made(tmp_path / "out", f"effects:{tmp_path / 'c.h5ad'}")


def test_deltas_that_were_changed_are_not_read(tmp_path):
    deltas().to_parquet(tmp_path / "d.parquet")
    made(tmp_path / "out", f"effects:{tmp_path / 'd.parquet'}")
    effects, errors = (tmp_path / "out" / f"effects{end}.parquet" for end in ("", "_se"))
    pd.read_parquet(effects).iloc[1:].to_parquet(errors)
    with pytest.raises(InputError, match=r"_se.parquet: .* \(\d+ rows, not \d+.*run the prior"):
        OtherEffects.read(tmp_path / "out")
    errors.write_bytes(b"x")
    with pytest.raises(InputError, match=r"_se.parquet: .*run the prior task again"):
        OtherEffects.read(tmp_path / "out")
    errors.unlink()
    effects.write_bytes(b"x")
    with pytest.raises(InputError, match="run the prior task again"):
        OtherEffects.read(tmp_path / "out")


def damaged(screen: Path, folder: Path) -> Path:
    """Copy a cells artifact; its cells are not those that its provenance names."""
    shutil.copytree(screen, folder)
    facts = json.loads((folder / "provenance.json").read_text())
    facts["files"][CELLS_FILE]["sha256"] = "0" * 64
    (folder / "provenance.json").write_text(json.dumps(facts))
    return folder


def test_the_cells_artifact_is_checked(screen, tmp_path):
    assert Cells.open(screen).genes
    folder = damaged(screen, tmp_path / "cells")
    with pytest.raises(InputError, match="sha256 is not the one"):
        made(tmp_path / "out", f"effects:{folder}")


def test_an_artifact_of_a_bucket_is_called_by_its_address(screen, tmp_path, monkeypatch):
    folder = damaged(screen, tmp_path / "cells")
    with serving("gs", monkeypatch, "screens"):
        for file in folder.iterdir():
            open_bucket("gs://screens").upload(file, f"cells/{file.name}")
        with pytest.raises(InputError) as told:
            made(tmp_path / "out", "effects:gs://screens/cells")
    assert str(told.value).startswith(f"gs://screens/cells/{CELLS_FILE}: sha256 is not the one")


def test_a_folder_whose_name_has_a_dot_is_a_folder(screen, tmp_path):
    shutil.copytree(screen, tmp_path / "cells-v1.2")
    _, plain = made(tmp_path / "plain", f"effects:{screen}")
    _, found = made(tmp_path / "out", f"effects:{tmp_path / 'cells-v1.2'}")
    np.testing.assert_array_equal(found.delta, plain.delta)


def test_a_folder_that_is_not_there_is_told_as_missing(tmp_path):
    for name in ("cells", "cells-v1.2"):
        with pytest.raises(InputError, match="no such"):
            made(tmp_path / f"out {name}", f"effects:{tmp_path / name}")
