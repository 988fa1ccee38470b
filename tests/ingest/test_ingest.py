"""Ingest of h5ad files: what comes out, what is refused, and how much memory it takes."""

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from components.ingest import csc
from components.ingest.ingest import ingest
from components.shared.artifacts.cells import Cells
from components.shared.artifacts.perturbation import CONTROL
from components.shared.reading import source
from components.shared.telling.errors import InputError

GENES = ["AARS1", "KLF1", "MAP2K6", "MYC", "RPL3", "SAMD1"]
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": np.asarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
}


def counts(cells: int, genes: int = len(GENES), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).poisson(1.5, (cells, genes)).astype(np.float32) + (
        np.arange(genes) == 0
    )


def obs_of(labels: list[str], lines: list[str]) -> pd.DataFrame:
    names = [f"cell{i}" for i in range(len(labels))]
    frame = pd.DataFrame({"gene": labels, "cell_line": lines}, index=names)
    return frame.astype("category")


def small(cells: int = 24) -> anndata.AnnData:
    labels = [CONTROL, "KLF1", "KLF1+MAP2K6", "NOTHERE"]
    obs = obs_of(
        [labels[i % 4] for i in range(cells)], [("k562", "rpe1")[i // 4 % 2] for i in range(cells)]
    )
    return anndata.AnnData(counts(cells), obs=obs, var=pd.DataFrame(index=GENES))


def written(folder: Path, adata: anndata.AnnData, name: str = "in.h5ad") -> Path:
    path = folder / name
    adata.write_h5ad(path)
    return path


def read(folder: Path) -> tuple[anndata.AnnData, dict[str, Any]]:
    adata = anndata.read_h5ad(folder / "cells.h5ad")
    return adata, json.loads((folder / "provenance.json").read_text())["summary"]


def log1p(raw: np.ndarray) -> np.ndarray:
    totals = raw.sum(axis=1, keepdims=True)
    return np.log1p(np.divide(raw * 1e4, totals, out=np.zeros(raw.shape), where=totals > 0))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint16", "int64"])
def test_counts_of_any_form_and_type_become_log1p_per_ten_thousand(
    tmp_path: Path, form: str, dtype: str
) -> None:
    adata = small()
    raw = adata.X.copy()
    adata.X = FORMS[form](raw.astype(dtype))
    ingest(str(written(tmp_path, adata)), tmp_path / "out")
    found, summary = read(tmp_path / "out")
    assert isinstance(found.X, sparse.csr_matrix)
    assert found.X.dtype == np.float32
    assert found.X.has_sorted_indices
    np.testing.assert_allclose(found.X.toarray(), log1p(raw), rtol=1e-5)
    assert summary["expression"] == "counts"
    assert "detected" in summary["expression_known"]


@pytest.mark.parametrize("form", FORMS)
def test_log1p_is_detected_and_kept_to_the_bit(tmp_path: Path, form: str) -> None:
    adata = small()
    adata.X = FORMS[form](log1p(adata.X).astype(np.float32))
    ingest(str(written(tmp_path, adata)), tmp_path / "out")
    found, summary = read(tmp_path / "out")
    wanted = adata.X if form == "dense" else adata.X.toarray()
    assert np.array_equal(found.X.toarray(), wanted)
    assert summary["expression"] == "log1p"
    assert summary["log1p_median_total_per_cell"] == pytest.approx(1e4, rel=1e-4)


def test_same_result_as_scanpy(tmp_path: Path) -> None:
    import scanpy

    adata = small(40)
    ingest(str(written(tmp_path, adata)), tmp_path / "out")
    scanpy.pp.normalize_total(adata, target_sum=1e4)
    scanpy.pp.log1p(adata)
    np.testing.assert_allclose(read(tmp_path / "out")[0].X.toarray(), adata.X, rtol=1e-5)


def test_cells_artifact_opens_and_reads_in_blocks(tmp_path: Path) -> None:
    adata = small()
    ingest(str(written(tmp_path, adata)), tmp_path / "out")
    cells = Cells.open(tmp_path / "out")
    assert cells.genes == GENES
    assert list(cells.obs.index) == list(adata.obs_names)
    np.testing.assert_allclose(cells.rows(np.array([5, 1])).toarray(), log1p(adata.X)[[5, 1]])
    assert cells.obs["is_control"].dtype == bool


def test_summary_counts_what_is_in_the_file(tmp_path: Path) -> None:
    adata = small(24)
    adata.X[3] = 0
    ingest(str(written(tmp_path, adata)), tmp_path / "out")
    found, summary = read(tmp_path / "out")
    assert summary["cells"] == 24
    assert summary["genes"] == 6
    assert summary["lines"] == {"k562": 12, "rpe1": 12}
    assert summary["controls"] == {"k562": 3, "rpe1": 3}
    assert summary["perturbations"] == 3
    assert summary["doubles"] == 1
    assert summary["perturbed_genes"] == 3
    assert summary["perturbed_genes_not_measured"] == 1
    assert summary["cells_without_counts"] == 1
    assert found.X[3].nnz == 0
    assert found.uns["source_sha256"] == summary["source_sha256"]
    assert found.uns["normalisation"] == "log1p of counts per 10,000"


def test_columns_control_line_and_batch_are_parameters(tmp_path: Path) -> None:
    adata = small()
    adata.obs = pd.DataFrame(
        {
            "condition": ["ctrl", "KLF1+ctrl", "ctrl+MYC", "KLF1+MAP2K6"] * 6,
            "gem": [f"g{i % 3}" for i in range(24)],
        },
        index=adata.obs_names,
    )
    ingest(
        str(written(tmp_path, adata)),
        tmp_path / "out",
        perturbation_column="condition",
        cell_line_column="=jurkat",
        control="ctrl",
        batch_column="gem",
    )
    found, summary = read(tmp_path / "out")
    assert set(found.obs["perturbation"]) == {CONTROL, "KLF1", "MYC", "KLF1+MAP2K6"}
    assert set(found.obs["cell_line"]) == {"jurkat"}
    assert list(found.obs["batch"][:4]) == ["g0", "g1", "g2", "g0"]
    assert found.obs["is_control"].sum() == 6
    assert summary["control_label"] == found.uns["control_label"] == "ctrl"
    assert summary["doubles"] == 1


def test_the_two_gears_spellings_of_a_single_become_one_perturbation(tmp_path: Path) -> None:
    adata = small()
    adata.obs["gene"] = ["ctrl", "KLF1+ctrl", "ctrl+KLF1", "KLF1"] * 6
    ingest(str(written(tmp_path, adata)), tmp_path / "out", control="ctrl")
    found, summary = read(tmp_path / "out")
    assert summary["perturbations"] == 1
    assert (found.obs["perturbation"] == "KLF1").sum() == 18


@pytest.mark.parametrize("form", FORMS)
def test_filtered_cells_are_not_written(tmp_path: Path, form: str) -> None:
    adata = small()
    raw = adata.X.copy()
    adata.X = FORMS[form](raw)
    adata.obs["day"] = [1, 2, 3] * 8
    ingest(
        str(written(tmp_path, adata)),
        tmp_path / "out",
        obs_filter={"day": [1, 3.0], "cell_line": "rpe1"},
    )
    kept = adata.obs["day"].isin([1, 3]) & (adata.obs["cell_line"] == "rpe1")
    found, summary = read(tmp_path / "out")
    assert list(found.obs_names) == list(adata.obs_names[kept])
    np.testing.assert_allclose(found.X.toarray(), log1p(raw)[kept], rtol=1e-5)
    assert summary["cells_filtered_out"] == 24 - kept.sum()
    assert list(found.obs["cell_line"].cat.categories) == ["rpe1"]


def test_cells_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    adata = small()
    adata.obs.loc["cell5", "gene"] = np.nan
    ingest(str(written(tmp_path, adata)), tmp_path / "out")
    found, summary = read(tmp_path / "out")
    assert "cell5" not in found.obs_names
    assert (summary["cells"], summary["cells_without_label"]) == (23, 1)


def test_expression_given_overrides_what_would_be_detected(tmp_path: Path) -> None:
    adata = small()
    adata.X = adata.X + 0.25
    ingest(str(written(tmp_path, adata)), tmp_path / "counts", expression="counts")
    ingest(str(tmp_path / "in.h5ad"), tmp_path / "log1p", expression="log1p")
    as_counts, as_log1p = (read(tmp_path / name)[0].X.toarray() for name in ("counts", "log1p"))
    np.testing.assert_allclose(as_counts, log1p(adata.X), rtol=1e-5)
    assert np.array_equal(as_log1p, adata.X)


def test_explicit_zeros_and_unsorted_doubled_entries_are_put_in_order(tmp_path: Path) -> None:
    adata = small()
    path = written(tmp_path, adata)
    raw = sparse.csr_matrix(adata.X)
    with h5py.File(path, "a") as file:
        del file["X"]
        adata.X = raw
        anndata.io.write_elem(file, "X", raw)
        data, columns = file["X/data"][:], file["X/indices"][:]
        low, high = raw.indptr[0], raw.indptr[1]
        data[low:high], columns[low:high] = data[low:high][::-1], columns[low:high][::-1]
        data[low] = 0
        file["X/data"][:], file["X/indices"][:] = data, columns
    wanted = raw.toarray()
    wanted[0, columns[low]] = 0
    ingest(str(path), tmp_path / "out")
    found = read(tmp_path / "out")[0].X
    assert (found.data != 0).all()
    assert found.has_sorted_indices
    np.testing.assert_allclose(found.toarray(), log1p(wanted), rtol=1e-5)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cells=st.integers(1, 60),
    genes=st.integers(1, 9),
    density=st.sampled_from([0.02, 0.3, 1.0]),
    block=st.integers(1, 70),
    chunk=st.integers(1, 50),
    chunked=st.booleans(),
    seed=st.integers(0, 999),
)
def test_every_form_gives_the_same_cells_whatever_the_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    cells: int,
    genes: int,
    density: float,
    block: int,
    chunk: int,
    chunked: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    raw = rng.poisson(3.0, (cells, genes)) * (rng.random((cells, genes)) < density)
    raw[0, 0] = 2
    kept = np.r_[True, rng.random(cells - 1) < 0.7]
    obs = obs_of([CONTROL] * cells, ["k562"] * cells)
    obs["kept"] = kept
    folder = tmp_path_factory.mktemp("forms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "ENTRIES_PER_BLOCK", block * genes)
        patch.setattr(csc, "ENTRIES_PER_CHUNK", chunk)
        for form, make in FORMS.items():
            adata = anndata.AnnData(
                make(raw.astype(np.float32)),
                obs=obs,
                var=pd.DataFrame(index=[f"G{i}A" for i in range(genes)]),
            )
            path = folder / f"{form}.h5ad"
            adata.write_h5ad(path, compression="gzip" if chunked else None)
            ingest(str(path), folder / form, obs_filter={"kept": True})
            found = read(folder / form)[0]
            assert list(found.obs_names) == list(obs.index[kept])
            np.testing.assert_allclose(found.X.toarray(), log1p(raw)[kept], rtol=1e-5)
            assert not list(folder.glob(".*")), "scratch was left behind"


@pytest.mark.parametrize("form", FORMS)
def test_peak_memory_does_not_grow_with_the_cells(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "ENTRIES_PER_BLOCK", 2**18)
    monkeypatch.setattr(csc, "ENTRIES_PER_CHUNK", 2**16)
    peaks = {}
    for cells in (2_000, 12_000):
        adata = anndata.AnnData(
            FORMS[form](counts(cells, 300)),
            obs=obs_of([CONTROL, "G1"] * (cells // 2), ["k562"] * cells),
            var=pd.DataFrame(index=[f"G{i}A" for i in range(300)]),
        )
        path = written(tmp_path, adata, f"{cells}.h5ad")
        del adata
        tracemalloc.start()
        ingest(str(path), tmp_path / f"out{cells}")
        peaks[cells] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # obs alone may grow; X of the larger file would be 14 MB dense, 20 MB as CSR.
    assert peaks[12_000] - peaks[2_000] < 10_000 * 600


# ---- bad input: one line, nothing written ----


def refused(folder: Path, path: Path | str, **keywords: Any) -> str:
    """Ingest must refuse; returns the message and checks that nothing is left."""
    before = sorted(folder.iterdir())
    with pytest.raises(InputError) as error:
        ingest(str(path), folder / "out", **keywords)
    message = str(error.value)
    assert "\n" not in message
    assert sorted(folder.iterdir()) == before, "something was written"
    return message


@pytest.mark.parametrize(
    "keywords", [{"perturbation_column": "genes"}, {"perturbation_column": "Gene"}]
)
def test_a_missing_column_is_told_with_the_nearest(
    tmp_path: Path, keywords: dict[str, str]
) -> None:
    message = refused(tmp_path, written(tmp_path, small()), **keywords)
    assert f"no column '{keywords['perturbation_column']}', nearest: 'gene'" in message


@pytest.mark.parametrize(
    "keywords",
    [{"cell_line_column": "line"}, {"batch_column": "gem"}, {"obs_filter": {"dya": [1]}}],
)
def test_each_column_parameter_is_checked(tmp_path: Path, keywords: dict[str, Any]) -> None:
    message = refused(tmp_path, written(tmp_path, small()), **keywords)
    assert "obs has no column" in message
    assert next(iter(keywords)) in message


def test_a_line_without_controls_is_named(tmp_path: Path) -> None:
    adata = small()
    adata.obs.loc[(adata.obs["cell_line"] == "rpe1") & (adata.obs["gene"] == CONTROL), "gene"] = (
        "KLF1"
    )
    message = refused(tmp_path, written(tmp_path, adata))
    assert "no control cells in cell line 'rpe1'" in message


@pytest.mark.parametrize(
    ("there", "asked"), [("non-targeting", "nontargeting"), ("control", "non-targeting")]
)
def test_an_absent_control_label_is_told_with_the_nearest(
    tmp_path: Path, there: str, asked: str
) -> None:
    adata = small()
    adata.obs["gene"] = adata.obs["gene"].cat.rename_categories({CONTROL: there})
    message = refused(tmp_path, written(tmp_path, adata), control=asked)
    assert f"no cell is labelled '{asked}'" in message
    assert f"nearest: '{there}'" in message


def test_two_labels_that_would_both_be_control_are_refused(tmp_path: Path) -> None:
    adata = small()
    adata.obs["gene"] = ["control", CONTROL, "KLF1", "MYC"] * 6
    assert "both" in refused(tmp_path, written(tmp_path, adata), control="control")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("value", "why"), [(-1.0, "negative"), (np.nan, "NaN"), (np.inf, "NaN or infinite")]
)
def test_a_bad_value_is_told_with_its_cell_and_gene(
    tmp_path: Path, form: str, value: float, why: str
) -> None:
    adata = small()
    adata.X[17, 3] = value
    adata.X = FORMS[form](adata.X)
    message = refused(tmp_path, written(tmp_path, adata))
    assert "cell 'cell17' and gene 'MYC'" in message
    assert why in message
    assert f"is {value:g}" in message


@pytest.mark.parametrize("form", FORMS)
def test_the_cell_of_a_bad_value_is_right_behind_a_filter(tmp_path: Path, form: str) -> None:
    adata = small()
    adata.X[17, 3] = -2
    adata.X = FORMS[form](adata.X)
    adata.obs["late"] = [i > 9 for i in range(24)]
    message = refused(tmp_path, written(tmp_path, adata), obs_filter={"late": True})
    assert "cell 'cell17' and gene 'MYC' is -2" in message


def test_a_bad_value_among_cells_filtered_out_does_no_harm(tmp_path: Path) -> None:
    adata = small()
    adata.X[1, 3] = np.nan
    adata.obs["late"] = [i > 9 for i in range(24)]
    ingest(str(written(tmp_path, adata)), tmp_path / "out", obs_filter={"late": True})
    assert read(tmp_path / "out")[1]["cells"] == 14


def test_a_fraction_among_counts_that_the_sample_missed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.ingest.source_h5ad import H5adSource

    monkeypatch.setattr(H5adSource, "sample", lambda *_: np.ones(9, dtype=np.float32))
    adata = small()
    adata.X[20, 2] = 1.5
    message = refused(tmp_path, written(tmp_path, adata))
    assert "cell 'cell20' and gene 'MAP2K6' is 1.5" in message


@pytest.mark.parametrize("given", ["auto", "log1p"])
def test_values_too_large_for_log1p_are_refused(tmp_path: Path, given: str) -> None:
    adata = small()
    adata.X = adata.X * 10.5 + 20
    message = refused(tmp_path, written(tmp_path, adata), expression=given)
    assert "log1p" in message


def test_whole_numbers_are_not_taken_for_log1p(tmp_path: Path) -> None:
    message = refused(tmp_path, written(tmp_path, small()), expression="log1p")
    assert "whole numbers" in message


def test_an_unknown_expression_is_refused_with_those_allowed(tmp_path: Path) -> None:
    message = refused(tmp_path, written(tmp_path, small()), expression="count")
    assert "nearest: 'counts'; allowed: auto, counts, log1p" in message


def test_duplicate_genes_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, small())
    with h5py.File(path, "a") as file:
        names = file["var"][file["var"].attrs["_index"]]
        names[4] = names[1]
    assert "'KLF1'" in refused(tmp_path, path)


def test_duplicate_cells_are_named(tmp_path: Path) -> None:
    path = written(tmp_path, small())
    with h5py.File(path, "a") as file:
        names = file["obs"][file["obs"].attrs["_index"]]
        names[4] = names[1]
    message = refused(tmp_path, path)
    assert "1 cell names occur more than once ('cell1')" in message


@pytest.mark.parametrize("ids", ["ENSG{:011d}", "{}"])
def test_ids_in_place_of_symbols_are_refused(tmp_path: Path, ids: str) -> None:
    adata = small()
    adata.var["gene_name"] = GENES
    adata.var_names = [ids.format(i) for i in range(6)]
    message = refused(tmp_path, written(tmp_path, adata))
    assert "expected gene symbols, var column 'gene_name' may hold them" in message


@pytest.mark.parametrize("part", [0.999, 0.5, 0.1])
def test_a_truncated_file_is_refused(tmp_path: Path, part: float) -> None:
    path = written(tmp_path, small(400))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    assert "truncated or damaged" in refused(tmp_path, path)


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("what", ["indices", "indptr"])
def test_a_sparse_matrix_that_points_outside_itself_is_refused(
    tmp_path: Path, form: str, what: str
) -> None:
    adata = small()
    adata.X = FORMS[form](adata.X)
    path = written(tmp_path, adata)
    with h5py.File(path, "a") as file:
        file[f"X/{what}"][-1] = 10_000
    assert "the file is damaged" in refused(tmp_path, path)


def test_a_damaged_compressed_chunk_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.h5ad"
    adata = small(400)
    adata.write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        place = file["X"].id.get_chunk_info(0)
    damaged = bytearray(path.read_bytes())
    damaged[place.byte_offset + 8 : place.byte_offset + place.size - 8] = bytes(place.size - 16)
    path.write_bytes(damaged)
    assert "cannot be read" in refused(tmp_path, path)


def test_a_file_that_is_not_hdf5_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.h5ad"
    path.write_text("cell,gene,count\n")
    assert "not an HDF5 file" in refused(tmp_path, path)


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    assert "absent.h5ad" in refused(tmp_path, tmp_path / "absent.h5ad")


def test_an_h5ad_without_x_is_refused(tmp_path: Path) -> None:
    adata = small()
    adata.layers["counts"] = adata.X
    adata.X = None
    message = refused(tmp_path, written(tmp_path, adata))
    assert "no X" in message
    assert "layers 'counts'" in message


def test_hdf5_that_is_no_h5ad_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "in.h5ad", "w") as file:
        file["X"] = np.ones((3, 2))
    assert "'obs' is not a table" in refused(tmp_path, tmp_path / "in.h5ad")


def test_a_filter_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    adata = small()
    adata.obs["day"] = [1, 2] * 12
    adata.obs["twin"] = [1, 2] * 12
    message = refused(tmp_path, written(tmp_path, adata), obs_filter={"day": 1, "twin": 2})
    assert "no cell is left of 24" in message


def test_a_filter_value_no_cell_has_is_refused_with_the_nearest(tmp_path: Path) -> None:
    message = refused(tmp_path, written(tmp_path, small()), obs_filter={"cell_line": "k652"})
    assert "nearest: 'k562'" in message


def test_a_target_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    message = refused(tmp_path, written(tmp_path, small()))
    assert "exists already" in message


def test_a_killed_ingest_leaves_no_target(tmp_path: Path) -> None:
    call = (
        "from components.ingest.ingest import ingest; "
        f"ingest('sim://screen?cells=200000&genes=2000', {str(tmp_path / 'out')!r})"
    )
    with subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(tmp_path.glob(".out.*/cells.h5ad")):
            time.sleep(0.02)
        time.sleep(0.2)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    ingest("sim://screen?cells=400&perturbations=4", tmp_path / "out")
    assert Cells.open(tmp_path / "out").genes


def test_a_download_is_used_and_removed(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    path = written(tmp_path / "served", small())
    handler = partial(SimpleHTTPRequestHandler, directory=str(path.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}/in.h5ad"
        ingest(uri, tmp_path / "out")
        server.shutdown()
    summary = read(tmp_path / "out")[1]
    assert summary["source"] == uri
    assert summary["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "served"]


# ---- real cells ----


def test_real_jurkat_counts_go_through_unchanged_in_number(
    shared_data: Path, tmp_path: Path
) -> None:
    path = shared_data / "datlinger2021_jurkat_raw.h5ad"
    ingest(
        str(path),
        tmp_path / "out",
        perturbation_column="target_gene",
        control="control",
        cell_line_column="=jurkat",
    )
    found, summary = read(tmp_path / "out")
    real = anndata.read_h5ad(path)
    labels = real.obs["target_gene"].astype(str).replace("control", CONTROL)
    assert list(found.obs["perturbation"].astype(str)) == list(labels)
    assert list(found.obs_names) == list(real.obs_names)
    assert found.shape == real.shape
    assert found.X.nnz == real.X.nnz
    np.testing.assert_allclose(found.X.toarray(), log1p(real.X.toarray()), rtol=1e-5)
    assert summary["expression"] == "counts"
    assert summary["lines"] == {"jurkat": 7500}
    assert summary["controls"] == {"jurkat": int((labels == CONTROL).sum())}
    assert summary["perturbations"] == 20
    assert summary["cells_without_counts"] == int((real.X.sum(axis=1) == 0).sum())


def test_one_context_of_the_real_jurkat_cells(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "datlinger2021_jurkat_raw.h5ad"
    with h5py.File(path) as file:
        context = anndata.io.read_elem(file["obs/perturbation_2"])
    ingest(
        str(path),
        tmp_path / "out",
        perturbation_column="target_gene",
        control="control",
        cell_line_column="=jurkat",
        obs_filter={"perturbation_2": str(context[0])},
    )
    summary = read(tmp_path / "out")[1]
    assert summary["cells"] == int((context == context[0]).sum())
    assert summary["cells_filtered_out"] == int((context != context[0]).sum())


def test_four_real_lines_keep_their_counts_and_values(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "norman2019_mcfaline2023_devel.h5ad"
    ingest(
        str(path),
        tmp_path / "out",
        perturbation_column="condition",
        control="control",
        cell_line_column="cell_type",
    )
    found, summary = read(tmp_path / "out")
    real = anndata.read_h5ad(path)
    assert summary["expression"] == "log1p"
    assert summary["lines"] == real.obs["cell_type"].value_counts().to_dict()
    assert sum(summary["lines"].values()) == 5961
    assert set(summary["controls"].values()) == {100}
    conditions = {str(c) for c in real.obs["condition"].unique()} - {"control"}
    assert summary["perturbations"] == len(conditions)
    assert summary["doubles"] == sum("+" in c for c in conditions) > 0
    genes = {gene for c in conditions for gene in c.split("+")}
    assert summary["perturbed_genes"] == len(genes)
    assert summary["perturbed_genes_not_measured"] == len(genes - set(real.var_names))
    assert len(genes & set(real.var_names)) == 1
    wanted = real.X.toarray() if sparse.issparse(real.X) else real.X
    assert np.array_equal(found.X.toarray(), wanted.astype(np.float32))
