"""No password, token or signature of an address is told or kept, whichever parameter it is in."""

from pathlib import Path
from typing import Any

import pytest

from components.ingest.ingest import ingest
from components.shared.artifacts.artifact import CELLS, PROVENANCE, writing
from components.shared.artifacts.failure import errors_of
from components.shared.parameters.repeat import commands
from components.shared.storage.scratch import folder_for
from components.shared.telling.addresses import kept, shown, unchecked, without_secrets
from components.shared.telling.errors import InputError
from pipelines.run import PARAMS, check_early, pinned, read_params

SECRET = "c0ffee"  # noqa: S105
ADDRESSES = [
    f"https://me:{SECRET}@127.0.0.1:9/{{}}?X-Amz-Signature={SECRET}#{SECRET}",
    f"https://me:a{SECRET}/b{SECRET}@127.0.0.1:9/{{}}",
    f"HTTPS://{SECRET}@127.0.0.1:9/{{}}?token={SECRET}",
    f"ftp://me:{SECRET}@host/{{}}?sig={SECRET}",
    f"sftp://me:{SECRET},more@host/{{}}",
    f"s3://key:{SECRET}@bucket/{{}}?X-Amz-Credential={SECRET}",
    f"gs://{SECRET}@bucket/{{}}?sig={SECRET}",
    f"hf://{SECRET}@models/owner/name/{{}}?token={SECRET}",
    f"hf://user:{SECRET}@datasets/owner/name/{{}}",
]
PLANTED: dict[str, tuple[str, Any]] = {
    "dataset": ("demo", lambda uri: uri.format("x.h5ad")),
    "a list of datasets": (
        "demo",
        lambda uri: f'["{uri.format("a.h5ad")}", {{"file": "{uri.format("b.h5ad")}", "x": 1}}]',
    ),
    "prior": ("demo", lambda uri: f"table:{uri.format('x.npz')}"),
    "a bare prior": ("demo", lambda uri: uri.format("x.parquet")),
    "a concat": ("demo", lambda uri: f"concat(graph:{uri.format('x.csv')}?width=0, none)"),
    "pretrained": ("demo", lambda uri: uri.format("best_model.pt")),
    "a vocabulary": ("demo", lambda uri: f"random://tiny?vocabulary={uri.format('vocab.json')}"),
    "a vocabulary of no size": ("demo", lambda uri: f"random://?vocabulary={uri.format('v.json')}"),
    "checkpoints": ("demo", lambda uri: uri.format("kept/../x")),
    "publish_to": ("demo", lambda uri: uri.format("models/../x")),
    "split_file": ("demo", lambda uri: uri.format("split.toml")),
    "aliases": ("demo", lambda uri: uri.format("aliases.txt")),
    "perturbations": ("demo", lambda uri: [uri.format("wanted.csv")]),
    "no_parameter": ("demo", lambda uri: uri.format("x")),
}
NAMES = {
    "a list of datasets": "dataset",
    "a bare prior": "prior",
    "a concat": "prior",
    "a vocabulary": "pretrained",
    "a vocabulary of no size": "pretrained",
}


@pytest.mark.parametrize("uri", ADDRESSES)
@pytest.mark.parametrize("where", PLANTED)
def test_no_parameter_tells_a_secret(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str, uri: str
) -> None:
    monkeypatch.setattr("components.shared.storage.files.download_by_scheme", _unreachable)
    file, planted = PLANTED[where]
    name, value = NAMES.get(where, where), planted(uri)
    told = []
    for look in (_checked, _pinned, _repeated, _written):
        try:
            told.append(look(file, name, value))
        except InputError as error:
            told.append(str(error))
    told += capfd.readouterr()
    assert SECRET not in "\n".join(told)


def _unreachable(scheme: str, uri: str, folder: Path, sha256: str) -> Path:
    raise InputError(f"{uri}: is not reached in this test")


def _checked(file: str, name: str, value: Any) -> str:
    given = f"[{value[0]!r}]" if isinstance(value, list) else value
    params = read_params(PARAMS / f"{file}.yaml", [f"{name}={given}"])
    check_early(params | {"checkpoints": params.get("checkpoints", "")})
    return ""


def _pinned(file: str, name: str, value: Any) -> str:
    pinned(read_params(PARAMS / f"{file}.yaml", []) | {name: value})
    return ""


def _repeated(file: str, name: str, value: Any) -> str:
    return commands("run", "x.yaml", {name: value})


def _written(file: str, name: str, value: Any) -> str:
    return str(kept({name: value, "list": [value]}))


@pytest.mark.parametrize("uri", ADDRESSES)
def test_no_artifact_no_failure_and_no_folder_name_keeps_one(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    uri = uri.format("x.h5ad")
    with writing(tmp_path / "a", CELLS, parameters={"source": uri}) as draft:
        draft.summary["source"] = f"cells of {uri}, all"
    with errors_of("ingest", tmp_path / "b", in_grid=True):
        raise OSError(f"cannot open {uri}")
    for text in ((tmp_path / "a" / PROVENANCE), (tmp_path / "b" / PROVENANCE)):
        assert SECRET not in text.read_text()
    assert SECRET not in str(folder_for(uri))
    monkeypatch.setattr("components.shared.storage.files.download_by_scheme", _unreachable)
    with pytest.raises(InputError) as error:
        ingest(uri, tmp_path / "cells")
    assert SECRET not in str(error.value)
    said = capfd.readouterr()
    assert SECRET not in said.out + "\n".join(
        line for line in said.err.splitlines() if not line.startswith("OSError: ")
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("https://h:8080/a@b/c", "https://h:8080/a@b/c"),
        ("https://u:p@h/x?sig=1#y", "https://h/x?…"),
        ("hf://models/o/n/f@main", "hf://models/o/n/f@main"),
        ("sim://screen?cells=4&lines=2", "sim://screen?cells=4&lines=2"),
        ("random://tiny?vocabulary=https%3A%2F%2Fu%3Ap%40h%2Fv.json%3Fs=1", None),
        ("/a/b@c?d", "/a/b@c?d"),
        ("hf://datasets/o/n/f@hf_abcdefghijklmnopqrstuvwx", "hf://datasets/o/n/f@…"),
    ],
)
def test_what_tells_nothing_secret_is_shown(uri: str, said: str | None) -> None:
    wanted = said or "random://tiny?vocabulary=https://h/v.json?…"
    assert shown(uri) == shown(shown(uri)) == wanted
    assert without_secrets(f"x '{uri}': bad") == f"x '{wanted}': bad"


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("hf://datasets/o/n/f.h5ad", ""),
        ("S3://bucket/x.h5ad + gs://bucket/y.h5ad + sim://screen", ""),
        ("", ""),
        ("/data/x.h5ad", "x.h5ad:"),
        ("gs://bucket/y.h5ad + https://h/z.h5ad", "z.h5ad:"),
        ("/data/x.h5ad + /data/y.h5ad", "x.h5ad and 1 more:"),
    ],
)
def test_where_no_store_keeps_a_digest_it_is_said(source: str, named: str) -> None:
    assert bool(unchecked(source)) == bool(named)
    assert not named or unchecked(source).startswith(f"No store keeps a digest of {named} ")
