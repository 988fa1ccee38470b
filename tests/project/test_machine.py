"""What the machine refuses: permissions, proxies, folders of ``~``; one line each."""

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from components.publish import targets
from components.shared.artifacts.artifact import CELLS, opening, writing
from components.shared.model.checkpoint import WEIGHTS_FILE, read_weights
from components.shared.parameters.pretrained import parse_pretrained
from components.shared.storage import files as storage
from components.shared.storage import proxies
from components.shared.telling.errors import InputError, one_line_errors
from pipelines.run import PARAMS, pinned, read_params, run

ROOT = Path(__file__).resolve().parents[2]
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.upper, PROXIES)):
        monkeypatch.delenv(name, raising=False)


# ---- permissions ----


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EACCES, "cannot be read or written (permission denied)"),
        (errno.EPERM, "cannot be read or written"),
        (errno.EROFS, "cannot be read or written (read-only file system)"),
        (errno.ENAMETOOLONG, "cannot be used (file name too long)"),
        (errno.ENOSPC, "the disk is full"),
    ],
)
def test_what_the_system_refuses_is_one_line(
    capsys: pytest.CaptureFixture[str], number: int, said: str
) -> None:
    with pytest.raises(SystemExit), one_line_errors("ingest"):
        raise OSError(number, os.strerror(number), "/there/cells.h5ad")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("ingest: error: ")
    assert "/there/cells.h5ad" in told
    assert said in told


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(FileNotFoundError), one_line_errors("ingest"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "x")


def test_a_file_that_may_not_be_read_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "locked.h5ad"
    path.write_text("")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match=r"locked.h5ad: is not readable \(permission denied\)"):
        storage.fetch(str(path), tmp_path)


def test_an_artifact_where_one_may_not_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr("tempfile.mkdtemp", denied)
    with (
        pytest.raises(InputError, match=r"is not writable \(permission denied\)"),
        writing(tmp_path / "out", CELLS, parameters={}),
    ):
        pass


def test_a_damaged_artifact_says_what_makes_it_anew(tmp_path: Path) -> None:
    with writing(tmp_path / "out", CELLS, parameters={}) as draft:
        (draft.path / "file").write_text("one")
    (tmp_path / "out" / "file").write_text("two")
    with pytest.raises(InputError, match=r"remove the folder .*out, and the next run makes it"):
        opening(tmp_path / "out", CELLS)


# ---- the home folder ----


@pytest.mark.parametrize("uri", ["~/in.h5ad", "file://{home}/in.h5ad"])
def test_a_tilde_is_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "in.h5ad").write_text("x")
    wanted = tmp_path / "in.h5ad"
    assert storage.fetch(uri.format(home=tmp_path), Path()) == wanted
    params = read_params(PARAMS / "demo.yaml", [f"dataset={uri.format(home=tmp_path)}"])
    assert pinned(params)["dataset"].startswith(f"{wanted}#sha256=")


def test_a_target_in_the_home_folder_is_made_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "README.md").write_text("card")
    targets.check_target("~/out")
    assert targets.upload(folder, "~/out") == str(tmp_path / "home" / "out")
    assert not (tmp_path / "~").exists()


def test_a_tilde_of_nobody_is_a_name_like_any_other() -> None:
    assert storage.local_path("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")


# ---- proxies ----


@pytest.mark.parametrize("variable", ["https_proxy", "all_proxy"])
def test_a_socks_proxy_without_its_package_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "socks5h://me:secret@proxy:1080")
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    with pytest.raises(InputError) as error:
        proxies.check_proxy("https://example.org/x", "x.h5ad", proxies.REQUESTS)
    told = str(error.value)
    assert f"socks5h://proxy:1080 of the environment ({variable}) is SOCKS" in told
    assert "pip install PySocks" in told
    assert "secret" not in told


def test_a_download_through_a_socks_proxy_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    for uri, package in (("https://x.org/a.h5ad", "PySocks"), ("hf://datasets/a/b/c", "socksio")):
        with pytest.raises(InputError, match=f"which needs the package {package}"):
            storage.fetch(uri, tmp_path)


@pytest.mark.parametrize(("scheme", "said"), [("gs", "PySocks"), ("s3", "cannot use")])
def test_a_bucket_behind_a_socks_proxy_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, scheme: str, said: str
) -> None:
    for name in ("STORAGE_EMULATOR_HOST", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=said):
        targets.check_target(f"{scheme}://bucket/prefix")


def test_a_host_beside_the_proxy_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    monkeypatch.setattr(proxies, "find_spec", lambda _: None)
    proxies.check_proxy("https://example.org/x", "x", proxies.REQUESTS)
    assert proxies.through("https://example.org/x") == ""


def test_a_proxy_that_does_not_answer_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from components.shared.storage import http as storage_http

    monkeypatch.setattr(storage_http, "TRIES", 1)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(InputError, match=r"through the proxy http://127.0.0.1:9"):
        storage.fetch("http://example.org/x.h5ad", tmp_path)


# ---- the token of the Hub ----


def whoami(role: str) -> dict[str, object]:
    return {
        "name": "someone",
        "orgs": [{"name": "lab"}],
        "auth": {"type": "access_token", "accessToken": {"role": role}},
    }


@pytest.mark.parametrize(
    ("role", "owner", "said"),
    [
        ("read", "someone", "may only read"),
        ("write", "strangers", "'strangers' is neither the user of HF_TOKEN nor one of its"),
        ("write", "Lab", ""),
        ("write", "someone", ""),
        ("fineGrained", "strangers", ""),
    ],
)
def test_what_a_token_may_do_is_looked_at_before_the_work(role: str, owner: str, said: str) -> None:
    if not said:
        targets.check_rights(whoami(role), owner, "hf://x/y")
        return
    with pytest.raises(InputError, match=said):
        targets.check_rights(whoami(role), owner, "hf://x/y")


# ---- checkpoints as others save them ----


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod."])
@pytest.mark.parametrize("key", ["", "model_state_dict"])
def test_names_of_wrappers_are_taken_off(tmp_path: Path, prefix: str, key: str) -> None:
    state = {f"{prefix}{name}": torch.ones(2) for name in ("a.weight", "b.Wqkv.weight")}
    torch.save({key: state, "epoch": 3} if key else state, tmp_path / WEIGHTS_FILE)
    assert set(read_weights(tmp_path / WEIGHTS_FILE)) == {"a.weight", "b.in_proj_weight"}


def test_a_name_that_only_some_tensors_share_stays(tmp_path: Path) -> None:
    torch.save({"model.a": torch.ones(2), "b": torch.ones(2)}, tmp_path / WEIGHTS_FILE)
    assert set(read_weights(tmp_path / WEIGHTS_FILE)) == {"model.a", "b"}


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("ck/best_model.pt", "ck"),
        ("ck/vocab.json", "ck"),
        ("best_model.pt", "."),
        ("/best_model.pt", "/"),
        ("s3://b/ck/args.json", "s3://b/ck"),
        ("hf://models/o/n/best_model.pt@main", "hf://models/o/n@main"),
        ("ck", "ck"),
    ],
)
def test_a_file_of_a_checkpoint_stands_for_its_folder(uri: str, folder: str) -> None:
    assert parse_pretrained(uri).folder == folder


def test_another_file_where_a_folder_is_wanted_is_refused_with_what_it_holds(
    tmp_path: Path,
) -> None:
    (tmp_path / "mine.pt").write_text("x")
    with pytest.raises(InputError, match=r"is a file; give the folder that holds best_model.pt"):
        storage.fetch_folder(str(tmp_path / "mine.pt"), Path(), ("best_model.pt",))


# ---- make ----


def made(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout + done.stderr


def test_make_refuses_a_pipeline_parameter_as_a_variable() -> None:
    told = made("run", "test_line=jurkat")
    assert "test_line=... is not a variable of make" in told
    assert "ARGS=\"'test_line=jurkat'\"" in told
    assert "PARAM=... is not a variable of make" in made("run", "PARAM=demo")
    assert "is not a variable" not in made("run", "ARGS=test_line=jurkat", "PARAMS=my params.yaml")


def test_make_takes_a_parameter_file_with_a_blank_in_its_path() -> None:
    assert 'pipelines.run "$PARAMS"' in made("run", "PARAMS=my params.yaml")


# ---- a local run ----


def test_the_log_keeps_the_line_with_which_a_task_failed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pipelines.local_log import plain, readable_log

    with readable_log() as told:
        print("    split: error: test_line: no such line")
        print("[KFP Executor 1] error: x")
        sys.stdout.write("    note: ")
        print("no error")
    assert told.told_errors == ["split: error: test_line: no such line"]
    assert plain("\x1b[91mFAILURE\x1b[0m") == "FAILURE"


# ---- homes, outputs, folders ----


def in_python(code: str, *, head: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own; ``head`` goes before it in a shell."""
    command = f'{head} "$0" -c "$1"'
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT)} | options.pop("env", {})
    for name in options.pop("without", ()):
        environment.pop(name, None)
    return subprocess.run(
        ["bash", "-c", command, sys.executable, code],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **options,
    )


PLOTTED = "import components.shared.telling.svg, pathlib; print(pathlib.Path.home())"


@pytest.mark.parametrize("home", [os.devnull, "/proc"])
def test_plots_need_no_home_that_can_be_written(home: str) -> None:
    done = in_python(PLOTTED, env={"HOME": home})
    assert done.returncode == 0, done.stderr


def test_plots_need_no_home_and_no_name() -> None:
    code = f"import pwd; pwd.getpwuid = {{}}.__getitem__; {PLOTTED}"
    done = in_python(code, without=("HOME",))
    assert done.returncode == 0 and done.stdout == f"{os.devnull}\n", done.stderr


FAILING = """
from components.shared.telling.errors import InputError, one_line_errors
with one_line_errors('split'):
    print('\\u2212 0.5 \\U0001f9ec', flush=True)
    raise InputError('perturbation \\u2212 is none')
"""


def test_output_takes_any_text_whatever_its_encoding() -> None:
    done = in_python(FAILING, env={"PYTHONIOENCODING": "ascii"})
    assert done.stdout == "\\u2212 0.5 \\U0001f9ec\n"
    assert done.stderr == "split: error: perturbation \\u2212 is none\n"


def test_output_that_is_closed_stops_nothing() -> None:
    done = in_python(FAILING + "\n", head="exec 1>&-;")
    assert done.stderr.endswith("is none\n") and "Traceback" not in done.stderr


def test_output_that_nobody_reads_is_one_line() -> None:
    code = FAILING.replace(
        "    raise", "    for _ in range(9): print('x' * 9999, flush=True)\n    raise"
    )
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" | true', sys.executable, code],
        capture_output=True,
        text=True,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1


def test_a_folder_for_temporary_files_that_may_not_be_written_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(SystemExit), one_line_errors("ingest"), tempfile.TemporaryDirectory():
        pass
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "set TMPDIR to one that may" in told


@pytest.mark.parametrize("name", ["runs", "runs/below"])
def test_a_runs_folder_that_is_a_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "runs").write_text("a file")
    params = read_params(PARAMS / "demo.yaml", [])
    with pytest.raises(InputError, match="is not writable"):
        run(params, tmp_path / name)
