"""Uploading with KFP's real client to a server that speaks its API."""

import json

import pytest
import yaml

from pipelines import upload
from pipelines.package import read_package
from pipelines.submit import COMPARISON, COMPILED, PACKAGE, PREDICTION
from pipelines.upload import main, manual, version_of
from tests.pipelines.kfp_server import SIGN_IN_PAGE, Kfp, serving

LONGEST = 2500
"""Characters of a manual, which the client sends in the address of the upload."""


def send(kfp: Kfp, *more: str) -> int | str | None:
    try:
        return main(["--host", kfp.url, *more])
    except SystemExit as ended:
        return ended.code


def test_each_compiled_pipeline_is_a_version_of_its_own_with_its_manual(capsys):
    with serving(Kfp()) as kfp:
        assert send(kfp) == 0
        page = f"{kfp.url}/#/pipelines/details/pipeline-0/version/version-0"
    names = sorted(path.stem for path in COMPILED.glob("*.yaml"))
    assert [one["display_name"] for one in kfp.pipelines] == names
    for one, version in zip(kfp.pipelines, kfp.versions, strict=True):
        package = read_package(COMPILED / f"{one['display_name']}.yaml")
        assert version["display_name"] == version_of(package)
        assert version["description"] == one["description"] == manual(package)
        assert version["pipeline_spec"]["pipeline_spec"] == package.spec
        assert version["pipeline_spec"]["platform_spec"] == package.platform
    assert page in capsys.readouterr().out


def test_what_is_there_already_is_not_uploaded_again(capsys, tmp_path):
    with serving(Kfp()) as kfp:
        (tmp_path / "mine.yaml").write_text(PACKAGE.read_text())
        assert send(kfp, "--packages", str(tmp_path)) == 0
        capsys.readouterr()
        assert send(kfp, "--packages", str(tmp_path)) == 0
        assert "mine v" in (said := capsys.readouterr().out) and "is there already" in said
        documents = list(yaml.safe_load_all(PACKAGE.read_text()))
        documents[0]["pipelineInfo"]["description"] = "changed"
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump_all(documents))
        assert send(kfp, "--packages", str(tmp_path)) == 0
    assert len(kfp.pipelines) == 1
    assert len({version["display_name"] for version in kfp.versions}) == 2


def test_the_order_of_keys_makes_no_other_version(tmp_path):
    documents = [one for one in yaml.safe_load_all(PACKAGE.read_text()) if one]
    turned = [dict(reversed(one.items())) for one in documents]
    (tmp_path / "turned.yaml").write_text(yaml.safe_dump_all(turned, sort_keys=False))
    assert version_of(read_package(tmp_path / "turned.yaml")) == version_of(read_package(PACKAGE))


@pytest.mark.parametrize("path", [PACKAGE, COMPARISON, PREDICTION], ids=lambda path: path.stem)
def test_a_manual_says_what_to_fill_in_with_an_example_of_each(path):
    package = read_package(path)
    text = manual(package)
    inputs = package.spec["root"]["inputDefinitions"]["parameters"]
    for name in [name for name, about in inputs.items() if not about.get("isOptional")]:
        [line] = [line for line in text.splitlines() if line.startswith(f"- `{name}`")]
        assert "; for example `" in line
    assert len(text) < LONGEST


def test_the_manual_says_how_to_change_the_prior_and_what_priors_there_are():
    text = manual(read_package(PACKAGE))
    assert "change `prior` and press *Start*" in text
    [line] = [line for line in text.splitlines() if line.startswith("- `prior`")]
    for prior in ("none", "effects", "`table:<uri>`", "`esm2:<checkpoint>?fasta=<uri>`"):
        assert prior in line
    assert json.dumps(["k562", "jurkat", "hepg2"]) in text
    assert "1 GPU on nodes with" in text
    cpu = COMPILED / "scgpt-perturb-cpu.yaml"
    assert "requests no GPU" in manual(read_package(cpu))


@pytest.mark.parametrize("name", ["scgpt-perturb-cpu", "compare-priors-cpu"])
def test_the_manual_of_a_form_that_is_filled_in_says_so_and_what_to_put_in(name):
    text = manual(read_package(COMPILED / f"{name}.yaml"))
    assert "as it stands the form runs on generated cells" in text
    for field in ("dataset", "train_lines", "test_line", "pretrained"):
        assert f"- `{field}`: " in text
    assert len(text) < LONGEST


def test_no_word_of_a_manual_is_read_as_markup():
    for path in COMPILED.glob("*.yaml"):
        outside = "".join(manual(read_package(path)).split("`")[::2])
        assert not set("_<>") & set(outside)


def test_every_pipeline_has_an_example():
    names = {read_package(path).spec["pipelineInfo"]["name"] for path in COMPILED.glob("*.yaml")}
    assert names == set(upload.EXAMPLES)


@pytest.mark.parametrize(
    ("always", "says"), [(401, "answered 401"), (SIGN_IN_PAGE, "sign-in page")]
)
def test_a_host_that_does_not_answer_as_kfp_is_told_in_one_line(capsys, always, says):
    with serving(Kfp(always=always)) as kfp:
        assert send(kfp) == 1
    assert says in capsys.readouterr().err and not kfp.versions


def test_a_folder_without_packages_is_told(capsys, tmp_path):
    assert main_code(tmp_path) == 1
    assert "no compiled pipelines" in capsys.readouterr().err


def main_code(folder) -> int | str | None:
    return send(Kfp(url="http://localhost:1"), "--packages", str(folder))
