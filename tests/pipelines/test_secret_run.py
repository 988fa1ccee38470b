"""A whole run with a secret in every parameter and in the environment: none is told or kept."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anndata
import numpy as np
import pandas as pd
import pytest
import yaml

from components.ingest.generator import write_raw
from pipelines.history import LATEST, LOG, PARAMETERS

ROOT = Path(__file__).resolve().parents[2]
SECRET = "c0ffee5ecre7"  # noqa: S105
ENVIRONMENT = {
    "HF_TOKEN": f"hf_{SECRET}HubHubHubHubHubHub",
    "AWS_ACCESS_KEY_ID": f"AKIA{SECRET}",
    "AWS_SECRET_ACCESS_KEY": f"{SECRET}/aws",
    "AWS_SESSION_TOKEN": f"{SECRET}/session",
    "WANDB_API_KEY": (f"{SECRET}wandb" * 3)[:40],
    "WANDB_MODE": "offline",
}
SPLIT = """
[datasets]
screen = "/data"
[training]
screen = "train"
[zeroshot]
"screen.hepg2" = "test"
"""
REFUSED = {
    "dataset": "ftp://me:{s}@127.0.0.1:9/x.h5ad?sig={s}",
    "checkpoints": "s3://key:{s}@bucket/x?X-Amz-Credential={s}",
    "publish_to": "gs://{s}@bucket/../x?sig={s}",
    "train_lines": ["https://me:{s}@host/x?sig={s}", 3.5, None],
}
"""Values that are refused; `test_secrets` has more."""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the files of a run; yield the address of one, its name to be filled in."""
    folder = tmp_path_factory.mktemp("served")
    screen = "sim://screen?cells=400&genes=40&perturbations=6&lines=3&seed=3"
    write_raw(screen, folder / "x.h5ad")
    genes = anndata.read_h5ad(folder / "x.h5ad").var_names.tolist()
    tokens = [*genes, "<pad>", "<cls>", "<eoc>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(len(genes), 4)))
    table.columns = [f"d{i}" for i in range(4)]
    table.insert(0, "gene", genes)
    table.to_parquet(folder / "prior.parquet")
    (folder / "split.toml").write_text(SPLIT)
    (folder / "aliases.csv").write_text("symbol,alias\nRPS6,S6\n")
    (folder / "wanted.csv").write_text("gene\nRPS6\nENO1\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://me:{SECRET}@127.0.0.1:{server.server_port}/{{}}?X-Amz-Signature={SECRET}"
    server.shutdown()
    server.server_close()


def parameters(address: str, folder: Path) -> dict[str, Any]:
    return {
        "dataset": address.format("x.h5ad"),
        "train_lines": ["k562", "jurkat"],
        "test_line": "hepg2",
        "pretrained": f"random://tiny?vocabulary={quote(address.format('vocab.json'), safe='')}",
        "prior": f"table:{address.format('prior.parquet')}",
        "perturbations": [address.format("wanted.csv")],
        "recipe": "smoke",
        "overrides": {"epochs": 1},
        "checkpoints": str(folder / "checkpoints"),
        "publish_to": str(folder / "mine"),
        "split_options": {
            "split_file": address.format("split.toml"),
            "aliases": address.format("aliases.csv"),
        },
    }


def run(params: dict[str, Any], folder: Path) -> tuple[int, str, list[str]]:
    """Run with a parameter file; return the exit code, what was said and who else could see it."""
    folder.mkdir(exist_ok=True)
    (folder / "secret.yaml").write_text(yaml.safe_dump(params))
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pipelines.run", str(folder / "secret.yaml")]
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [*command, "--verbose", "--runs", str(folder / "runs")],
            cwd=ROOT,
            env=dict(os.environ) | ENVIRONMENT | {"TMPDIR": str(folder / "tmp")},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        seen: set[str] = set()
        while process.poll() is None:
            seen |= set(_command_lines())
            time.sleep(0.05)
    return process.returncode, (folder / "said").read_text(), sorted(seen)


def _command_lines() -> Iterator[str]:
    """Yield the command lines on this machine that tell the secret."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if SECRET.encode() in (text := file.read_bytes()):
                yield text.replace(b"\0", b" ").decode(errors="replace")[:300]


def telling(folder: Path) -> list[str]:
    """Return the files and the names below a folder that hold the secret, but for its parameters.

    What is needed to run the same again stays in `params.yaml`, which its owner alone may read.
    """
    found = []
    for path in folder.rglob("*"):
        own = path.name in (PARAMETERS, "secret.yaml")
        if own and path.name == PARAMETERS:
            assert path.stat().st_mode & 0o077 == 0
        if SECRET in path.name or (path.is_file() and not own and _holds(path)):
            found.append(str(path.relative_to(folder)))
    return found


def _holds(path: Path) -> bool:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return SECRET.encode() in raw


def test_a_run_that_succeeds_tells_no_secret(address: str, tmp_path: Path) -> None:
    code, said, seen = run(parameters(address, tmp_path), tmp_path)
    assert code == 0, said[-3000:]
    assert SECRET not in said
    assert seen == []
    assert telling(tmp_path) == []
    assert (tmp_path / "mine" / "README.md").is_file()
    log = tmp_path / "runs" / LATEST / LOG
    assert "X-Amz" not in log.read_text()


@pytest.mark.parametrize("name", REFUSED)
def test_a_run_that_is_refused_tells_no_secret(address: str, tmp_path: Path, name: str) -> None:
    planted = json.loads(json.dumps(REFUSED[name]).replace("{s}", SECRET))
    code, said, seen = run(parameters(address, tmp_path) | {name: planted}, tmp_path)
    assert code == 1
    assert "error: " in said and "Traceback" not in said
    assert SECRET not in said
    assert seen == []
    assert telling(tmp_path) == []
