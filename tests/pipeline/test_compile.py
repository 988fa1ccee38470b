import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines import compile as compiling

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def compiled():
    return [d for d in yaml.safe_load_all(compiling.COMPILED.read_text()) if d]


def test_the_compiled_file_is_what_the_code_compiles_to_and_kfp_can_read_it():
    assert compiling.check()


def test_drift_in_either_document_is_noticed(compiled, tmp_path, monkeypatch):
    drifted = tmp_path / "scgpt-perturb.yaml"
    monkeypatch.setattr(compiling, "COMPILED", drifted)
    for document, path in ((0, ["root", "dag", "tasks"]), (1, ["platforms", "kubernetes"])):
        changed = copy.deepcopy(compiled)
        node = changed[document]
        for key in path[:-1]:
            node = node[key]
        node[path[-1]].popitem()
        drifted.write_text(yaml.safe_dump_all(changed))
        assert not compiling.check()


def test_a_field_kfp_does_not_know_is_refused(compiled):
    compiled[0]["root"]["surprise"] = 1
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict(compiled[0], pipeline_spec_pb2.PipelineSpec())


@pytest.mark.parametrize("task", ["finetune", "predict"])
def test_the_gpu_tasks_ask_for_an_accelerator_of_the_h100_pool(compiled, task):
    container = compiled[0]["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
    accelerator = container["resources"]["accelerator"]
    assert accelerator["resourceType"] == "nvidia.com/gpu"
    assert accelerator["resourceCount"] == "1"
    kubernetes = compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert kubernetes[f"exec-{task}"]["nodeSelector"]["labels"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb"
    }
    assert kubernetes[f"exec-{task}"]["tolerations"][0]["key"] == "nvidia.com/gpu"


def test_no_task_installs_anything_when_its_pod_starts(compiled):
    for executor in compiled[0]["deploymentSpec"]["executors"].values():
        assert "pip install" not in " ".join(executor["container"]["command"])


def test_every_pipeline_parameter_is_described_for_the_form_in_the_ui(compiled):
    parameters = compiled[0]["root"]["inputDefinitions"]["parameters"]
    assert all(parameter.get("description") for parameter in parameters.values())


@pytest.mark.parametrize(
    "module", sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("components/*/component.py"))
)
def test_a_component_imports_only_kfp_and_the_standard_library_at_its_top(module):
    code = f"""
import importlib, sys
allowed = sys.stdlib_module_names | {{"components"}}
import kfp.dsl
before = set(sys.modules)
importlib.import_module({module.removesuffix(".py").replace("/", ".")!r})
loaded = {{name for name in set(sys.modules) - before if name.split(".")[0] not in allowed}}
assert not loaded, loaded
own = {{name for name in sys.modules if name.startswith("components.")}}
assert len(own) == 2, own
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_stages_import_neither_kfp_nor_each_other():
    stages = {path.parent.name for path in ROOT.glob("components/*/component.py")}
    for path in ROOT.glob("components/*/*.py"):
        if path.name == "component.py":
            continue
        text = path.read_text()
        assert "import kfp" not in text, path
        assert "from kfp" not in text, path
        for other in stages - {path.parent.name}:
            assert f"components.{other}" not in text, path
