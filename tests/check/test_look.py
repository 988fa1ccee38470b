"""A look at a dataset before it is read: what it tells and refuses, and how little it reads."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from components.check.estimate import (
    Size,
    Training,
    disk,
    estimated,
    memory,
    seconds,
    training_cells,
)
from components.check.look import look, print_look
from components.ingest.generator import Screen, write_raw
from components.ingest.ingest import ingest
from components.shared.storage import machine, ranged
from components.shared.storage.ranged import UnreadError, opened_in_part
from components.shared.telling.errors import InputError
from components.shared.telling.facts import TITLE
from components.split.split import split
from tests.servers.stores import serving as serving_store
from tests.servers.web_server import Web, serving

SCREEN = "sim://screen?cells=1200&genes=120&perturbations=24&lines=4&seed=1"
PADDING = 40 * 2**20
"""Bytes in uns, before the matrix: what a look must not fetch."""


def asked(dataset: object, **more: object) -> dict[str, Any]:
    return {
        "dataset": str(dataset),
        "train_lines": ["k562", "jurkat"],
        "test_line": "rpe1",
        "pretrained": "random://tiny",
        "recipe": "default",
        "overrides": {},
    } | more


def facts(lines: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        title = line[:TITLE].strip() or list(found)[-1]
        found[title] = f"{found.get(title, '')} {line[TITLE:]}".strip()
    return found


@pytest.fixture(scope="module")
def h5ad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A screen as a file that is large but for its labels."""
    path = tmp_path_factory.mktemp("look") / "cells.h5ad"
    write_raw(SCREEN, path)
    adata = anndata.read_h5ad(path)
    adata.uns["padding"] = np.random.default_rng(0).integers(256, size=PADDING, dtype=np.uint8)
    adata.write_h5ad(path)
    return path


@pytest.fixture(scope="module")
def web(h5ad: Path) -> Iterator[Web]:
    with serving(Web(h5ad.read_bytes())) as web:
        yield web


def test_what_it_tells_is_what_ingest_and_split_then_find(h5ad: Path, tmp_path: Path) -> None:
    said = facts(look(asked(h5ad)))
    ingest(str(h5ad), tmp_path / "cells")
    split(tmp_path / "cells", tmp_path / "splits", train_lines=["k562", "jurkat"], test_line="rpe1")
    obs = anndata.read_h5ad(tmp_path / "cells" / "cells.h5ad").obs
    roles = pd.read_parquet(tmp_path / "splits" / "splits.parquet")["role"].value_counts()
    assert said["cells"].startswith(f"{len(obs):,} x 120 genes")
    for line, part in obs.groupby("cell_line", observed=True):
        assert f"{line} {len(part):,} ({part['is_control'].sum():,} controls)" in said["by line"]
    assert said["trains on"].startswith(f"{roles['train'] + roles['val']:,} cells in ")
    assert "120 of 120 genes are in scGPT's" in said["vocabulary"]
    assert "training takes " in said["estimate"] and " idle CPU" in said["estimate"]


def test_every_line_fits_a_terminal(h5ad: Path) -> None:
    assert all(len(line) <= 80 for line in look(asked(h5ad)))


def test_a_generated_screen_is_looked_at_where_it_can_be_made() -> None:
    assert (
        "k562 300 (30 controls)" in facts(look(asked(SCREEN), generate=Screen.from_uri))["by line"]
    )
    assert "not looked at beforehand: they are generated" in look(asked(SCREEN))[0]


def test_of_a_file_on_the_web_little_is_fetched(web: Web, h5ad: Path) -> None:
    web.requests.clear()
    found = facts(look(asked(web.url)))
    assert found.get("cells") == facts(look(asked(h5ad)))["cells"], found
    asked_for = sum(
        1 - int(start) + int(end)
        for request in web.requests
        for start, _, end in [request["range"].removeprefix("bytes=").partition("-")]
    )
    assert asked_for < PADDING / 5


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_of_an_object_in_a_bucket_little_is_fetched(
    scheme: str, h5ad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving_store(scheme, monkeypatch, "screens") as store:
        store.put("screens", "cells.h5ad", h5ad.read_bytes())
        with opened_in_part(f"{scheme}://screens/cells.h5ad") as file:
            assert isinstance(file, ranged.Ranged)
            assert file.read(8) == b"\x89HDF\r\n\x1a\n"
            assert file.cache.total_requested_bytes == ranged.BLOCK
        found = look(asked(f"{scheme}://screens/cells.h5ad"))
    assert facts(found)["by line"] == facts(look(asked(h5ad)))["by line"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"ranges": False}, "sends no parts"),
        ({"statuses": [403]}, "HTTP 403"),
        ({"cuts": [1, 5]}, "http://"),
    ],
)
def test_a_store_that_gives_no_parts_is_one_line_and_no_end(
    h5ad: Path, fault: dict[str, object], says: str
) -> None:
    with serving(Web(h5ad.read_bytes(), **fault)) as web:  # type: ignore[arg-type]
        said = facts(look(asked(web.url)))
    assert list(said) == ["look"]
    assert says in said["look"]


def test_a_store_that_is_slow_is_left_after_its_time(web: Web, monkeypatch) -> None:
    monkeypatch.setattr(ranged, "Ranged", partial(ranged.Ranged, seconds=-1.0))
    assert "takes longer" in facts(look(asked(web.url)))["look"]


def test_any_other_fault_is_a_note(h5ad: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("components.check.look.labels_of", fails)
    assert "(MemoryError)" in look(asked(h5ad))[0]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"perturbation_column": "genes"}, "nearest: 'gene'"),
        ({"control_label": "ctrl"}, "ctrl"),
        ({"train_lines": ["k563"]}, "nearest: 'k562'"),
        ({"test_line": "rpe"}, "nearest: 'rpe1'"),
        ({"split_options": {"val_line": "jurkats"}}, "nearest: 'jurkat'"),
    ],
)
def test_what_ingest_or_split_would_refuse_is_refused_first(
    h5ad: Path, more: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        look(asked(h5ad, **more))


def test_a_file_that_is_no_h5ad_is_named_as_ingest_names_it(tmp_path: Path) -> None:
    (tmp_path / "cells.h5ad").write_bytes(b"\x1f\x8bcompressed")
    with pytest.raises(InputError, match="gunzip"):
        look(asked(tmp_path / "cells.h5ad"))


def test_a_split_file_says_itself_what_trains(h5ad: Path) -> None:
    given = asked(h5ad, split_options={"split_file": "s.toml"}, train_lines=["x"])
    assert facts(look(given))["trains on"] == "what the split file says"


def test_several_files_are_counted_together(h5ad: Path, tmp_path: Path) -> None:
    for line in ("k562", "rpe1"):
        adata = anndata.read_h5ad(h5ad)
        adata[adata.obs["cell_line"] == line].write_h5ad(tmp_path / f"{line}.h5ad")
    several = f'["{tmp_path}/k562.h5ad", "{tmp_path}/rpe1.h5ad"]'
    said = facts(look(asked(several, train_lines=["k562"])))
    assert said["cells"].startswith("600 x 120 genes of 2 files")


def test_only_a_pod_tells_it_since_a_run_here_began_with_it(h5ad, capsys, monkeypatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    print_look(asked(h5ad))
    assert not capsys.readouterr().out
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    print_look(asked(h5ad))
    assert "check: by line     " in capsys.readouterr().out


def test_the_estimate_is_the_reference_runs_own_time_and_the_cells_in_memory() -> None:
    cells = 5_400_630 // 30
    size = Size(cells, 10_000, 6_546, 10**9, 3 * 10**10)
    training = Training("gs://bucket/scgpt_human", 30, 1536, 192, gpus=1)
    assert seconds(size, training, cpus=8) == pytest.approx(393.6 * 60, rel=0.05)
    assert training_cells(size, training) == 2 * 190_021 * 6_546
    assert memory(size, training) == pytest.approx(1.5e9, rel=0.1)
    assert disk(size, training) == pytest.approx(3.8e10 + 2e9, rel=0.01)


def test_the_estimate_is_what_the_demo_took_within_a_factor_of_two() -> None:
    # Alone on 2 CPUs: 3,466 cells of 96 tokens, 13 epochs at 1,029 cells/s; 95 MB after the run,
    # and as much as a second checkpoint more during it.
    size = Size(3_466, 450, 400, 6_000 * 400, 0)
    demo = Training("random://tiny", 13, 96, 32)
    assert 1 / 2 < seconds(size, demo, cpus=2) / (13 * 3_466 / 1_029) < 2
    assert 1 / 2 < disk(size, demo) / 159e6 < 2


def test_cells_that_are_too_many_for_the_memory_are_counted_as_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    device = {tmp_path: 1, Path.cwd(): 2}
    monkeypatch.setattr(Path, "stat", lambda path: SimpleNamespace(st_dev=device[path]))

    def said(memory: int, here: float, temporary: float) -> dict[str, str]:
        monkeypatch.setattr(machine, "memory", lambda: memory)
        free = {Path.cwd(): here, tmp_path: temporary}
        monkeypatch.setattr(shutil, "disk_usage", lambda of: SimpleNamespace(free=free[of]))
        return estimated(Size(2_000_000, 0, 1_000, 0, 0), Training("random://tiny", 1, 96, 32))

    held, large = said(32 * 10**9, 1e9, 0)["estimate"], said(12 * 10**9, 1e9, 9e9)
    assert re.search(r"about 8\.. GB of memory and \d+ MB of disk$", held)
    told = r"about \d+ MB of memory and 8\.. GB of disk, 8\.0 GB of it in /"
    assert re.search(told, large["estimate"])
    assert "warning" not in large  # of two disks each has room for what it is to hold
    assert f"7.0 GB of disk free in {tmp_path}" in said(12 * 10**9, 1e9, 7e9)["warning"]
    both = said(10**8, 1e8, 9e9)["warning"]
    assert both.startswith("this machine has 100 MB of memory and 100 MB of disk free here;")
    device[tmp_path] = 2
    assert "8.1 GB of disk free here;" in said(12 * 10**9, 8.1e9, 8.1e9)["warning"]


def test_a_pod_says_nothing_of_its_own_machine_since_another_pod_trains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "memory", lambda: 10**8)
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 99.0, 99.0))
    asked = Size(2_000_000, 0, 1_000, 0, 0), Training("random://tiny", 1, 96, 32)
    assert {"busy", "warning"} <= estimated(*asked).keys()
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert estimated(*asked).keys() == {"estimate"}
    assert "8.8 GB of memory and" in estimated(*asked)["estimate"]


def test_a_busy_machine_is_named_and_an_idle_one_is_not(
    h5ad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for load, said in ((1000.0, True), (0.0, False)):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, load, load))
        assert ("busy" in facts(look(asked(h5ad)))) is said


def test_a_file_of_another_scheme_is_not_read_in_part() -> None:
    with pytest.raises(UnreadError, match="not read in part"), opened_in_part("ftp://host/file"):
        pass


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ({"val_fraction": 1}, {}),
        ({"val_line": "Jurkat", "val_fraction": 0.5}, {}),
        ({"val_fraction": 0}, {}),
        ({}, {"train_lines": ["k562"]}),
        ({}, {"train_lines": ["k562", "jurkat", "hepg2"]}),
    ],
)
def test_as_many_sets_validate_as_split_then_holds_out(
    h5ad: Path, tmp_path: Path, options: dict[str, object], more: dict[str, object]
) -> None:
    ingest(str(h5ad), tmp_path / "cells")
    given = asked(h5ad, split_options=options) | more
    lines: dict[str, Any] = {name: given[name] for name in ("train_lines", "test_line")}
    split(tmp_path / "cells", tmp_path / "splits", **lines, **options)
    table = pd.read_parquet(tmp_path / "splits" / "splits.parquet").query("role == 'val'")
    validate = len(table[["cell_line", "perturbation"]].drop_duplicates())
    assert facts(look(given))["trains on"].endswith(f"of which about {validate} validate")


def written(path: Path, labels: str, genes: str = "ABCD") -> str:
    """Write ten cells of each label (- = controls) of the line that the file is called by."""
    names = ["non-targeting" if label == "-" else label for label in labels] * 10
    index = [f"cell{i}" for i in range(len(names))]
    obs = pd.DataFrame({"gene": names, "cell_line": path.stem}, index=index)
    x = np.ones((len(names), len(genes)), np.float32)
    anndata.AnnData(x, obs=obs, var=pd.DataFrame(index=list(genes))).write_h5ad(path)
    return str(path)


@pytest.mark.parametrize(
    ("rpe1", "more", "says"),
    [
        (("-DDD",), {}, "'rpe1': it shares no perturbation with the training"),
        (("-AAA", "EFGH"), {}, r"no gene is in all 2 files \(\S+k562.h5ad has 'A', 'B', 'C', "),
        (("-AAA",), {"train_lines": ["rpe1"], "test_line": "k562"}, "in validation: 1 of 1 sets"),
        (("----",), {"train_lines": ["rpe1"], "test_line": "k562"}, "no perturbed cells"),
    ],
)
def test_lines_that_cannot_train_or_test_are_refused(
    tmp_path: Path, rpe1: tuple[str, ...], more: dict[str, object], says: str
) -> None:
    files = [written(tmp_path / "k562.h5ad", "-ABC"), written(tmp_path / "rpe1.h5ad", *rpe1)]
    given = asked(json.dumps(files)) | {"train_lines": ["k562"]} | more
    with pytest.raises(InputError, match=says):
        look(given)


def test_what_is_asked_for_need_not_be_in_both_lines(tmp_path: Path) -> None:
    files = [written(tmp_path / "k562.h5ad", "-ABC"), written(tmp_path / "rpe1.h5ad", "-DDD")]
    given = asked(json.dumps(files), train_lines=["k562"])
    assert "0 in both" in facts(look(given | {"perturbations": ["A"]}))["perturbed"]
    unrestricted = {"restrict_test_to_training": False}
    assert "0 in both" in facts(look(given | {"split_options": unrestricted}))["perturbed"]
