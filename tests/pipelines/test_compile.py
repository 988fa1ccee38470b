import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from components.shared.findings.results import KNOWING
from components.shared.parameters.prior_grammar import FORMS
from components.shared.parameters.recipe import recipe_names
from pipelines import compile as compiling
from pipelines import form
from pipelines.images import development_images, stages
from pipelines.run import check_settings
from pipelines.scheduling import CPU, H100

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(params=compiling.PROFILES)
def compiled(request):
    return compiling.documents(compiling.FOLDER / request.param)


@pytest.fixture
def h100():
    return compiling.documents(compiling.FOLDER / "scgpt-perturb.yaml")


def test_the_compiled_files_are_what_the_code_compiles_to_and_kfp_can_read_them():
    assert compiling.check()


COMPILE = """
import sys
from pathlib import Path
from pipelines.compile import compile_to, development_images
compile_to(Path(sys.argv[1]), development_images())
"""


def test_another_process_compiles_to_the_bytes_that_one_has_written(tmp_path):
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    command = [sys.executable, "-c", COMPILE, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    written = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(written) == set(compiling.PROFILES)
    assert written == {name: (compiling.FOLDER / name).read_bytes() for name in written}


@pytest.mark.parametrize("order", [("b", "a"), ("a", "b")])
def test_comment_lines_show_keys_in_one_order(order):
    default = [{key: {"y": "it's", "x": 1.0} for key in order}]
    text = f"#    tolerations: list [Default: {default}]\nrest: {{b: 1, a: 2}}\n"
    assert compiling.in_fixed_order(text) == (
        """#    tolerations: list [Default: [{'a': {'x': 1.0, 'y': "it's"}, 'b': """
        """{'x': 1.0, 'y': "it's"}}]]\nrest: {b: 1, a: 2}\n"""
    )


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return compiling.compile_to(tmp_path_factory.mktemp("fresh"), development_images())


@pytest.mark.parametrize("name", compiling.PROFILES)
@pytest.mark.parametrize(
    ("document", "path"), [(0, ["root", "dag", "tasks"]), (1, ["platforms", "kubernetes"])]
)
def test_drift_in_either_document_is_noticed(name, document, path, fresh, tmp_path):
    alone = [file for file in fresh if file.name == name]
    (tmp_path / name).write_text(alone[0].read_text())
    assert compiling.stale(tmp_path, alone) == []
    changed = compiling.documents(tmp_path / name)
    node = changed[document]
    for key in path:
        node = node[key]
    node.popitem()
    (tmp_path / name).write_text(yaml.safe_dump_all(changed))
    assert compiling.stale(tmp_path, alone) == [name]
    (tmp_path / name).unlink()
    assert compiling.stale(tmp_path, alone) == [name]


def test_a_release_of_other_images_than_were_pushed_is_drift(tmp_path, monkeypatch, capsys):
    pushed = {stage: f"registry.example/{stage}@sha256:{'0' * 64}" for stage in stages()}
    smallest = {"predict-line-cpu.yaml": compiling.PROFILES["predict-line-cpu.yaml"]}
    monkeypatch.setattr(compiling, "PROFILES", smallest)
    monkeypatch.setattr(compiling, "RELEASES", tmp_path)
    monkeypatch.setattr(compiling, "released_images", lambda: pushed)
    compiling.compile_to(tmp_path, pushed)
    assert compiling.check()
    pushed["split"] = f"registry.example/split@sha256:{'1' * 64}"
    assert not compiling.check()
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[-1] for line in told] == [
        "not what the pipeline compiles to; run make compile RELEASE=1"
    ]


def test_an_image_of_other_code_is_drift_in_each_file_that_names_it(fresh, tmp_path, monkeypatch):
    other, *same = fresh
    for file in same:
        (tmp_path / file.name).write_text(file.read_text())
    monkeypatch.setattr(compiling, "PROFILES", {other.name: compiling.PROFILES[other.name]})
    compiling.compile_to(tmp_path, development_images() | {"split": "scgpt-perturb/split:0"})
    assert compiling.stale(tmp_path, fresh) == [other.name]


def test_a_field_kfp_does_not_know_is_refused(compiled):
    compiled[0]["root"]["surprise"] = 1
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict(compiled[0], pipeline_spec_pb2.PipelineSpec())


def settings_of(compiled, task):
    """Return what a task asks of its pod."""
    return compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{task}"]


def container_of(compiled, task):
    return compiled[0]["deploymentSpec"]["executors"][f"exec-{task}"]["container"]


def gpu_tasks(compiled):
    executors = compiled[0]["deploymentSpec"]["executors"]
    return [task for task in ("finetune", "predict") if f"exec-{task}" in executors]


@pytest.mark.parametrize("task", ["finetune", "predict"])
def test_the_gpu_tasks_take_their_nodes_from_parameters(compiled, task):
    if task not in gpu_tasks(compiled):
        assert "exec-check-model" in compiled[0]["deploymentSpec"]["executors"]
        return  # a finished model is applied: nothing is trained
    accelerator = container_of(compiled, task)["resources"]["accelerator"]
    assert accelerator["resourceType"] == "nvidia.com/gpu"
    assert re.fullmatch(
        r"\{\{\$\.inputs\.parameters\['pipelinechannel--check(-grid|-model)?-gpu_count'\]\}\}",
        accelerator["resourceCount"],
    )
    settings = settings_of(compiled, task)
    assert settings["nodeSelector"] == {
        "nodeSelectorJson": {"componentInputParameter": "pipelinechannel--node_selector"}
    }
    assert settings["tolerations"] == [
        {"tolerationJson": {"componentInputParameter": "pipelinechannel--tolerations"}}
    ]
    inputs = compiled[0]["components"]["comp-exit-handler-1"]["inputDefinitions"]["parameters"]
    names = {"node_selector", "tolerations"}
    assert {f"pipelinechannel--{name}" for name in names} <= set(inputs)


RUNTIME = re.compile(r"\{\{\$\.inputs\.parameters\['(.+?)'\]\}\}")
"""How a field of a pod refers to a parameter; KFP's driver takes the whole field or nothing."""


def strings_in(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for inner in value for text in strings_in(inner)]
    return [value] if isinstance(value, str) else []


def tasks_of(spec, label):
    """Yield each task that runs an executor, with the input definitions and tasks around it."""
    for around in (spec["root"], *spec["components"].values()):
        tasks = around.get("dag", {}).get("tasks", {})
        for task in tasks.values():
            if spec["components"][task["componentRef"]["name"]].get("executorLabel") == label:
                yield task, around, tasks


def kind_of(spec, found, around, tasks):
    """Return the type of what a task's input takes from the tasks or the inputs around it."""
    if "taskOutputParameter" in found:
        source = found["taskOutputParameter"]
        component = spec["components"][tasks[source["producerTask"]]["componentRef"]["name"]]
        definitions, name = component["outputDefinitions"], source["outputParameterKey"]
    else:
        definitions, name = around["inputDefinitions"], found["componentInputParameter"]
    return definitions["parameters"][name]["parameterType"]


def test_what_a_pod_is_asked_for_is_constant_or_text(compiled):
    """KFP's driver reads the text of a parameter: a number's is empty, and the field is dropped."""
    spec, checked = compiled[0], 0
    for label, executor in spec["deploymentSpec"]["executors"].items():
        container = executor["container"]
        for text in strings_in([container["image"], container["resources"]]):
            if "{{" not in text:
                continue
            name = RUNTIME.fullmatch(text)[1]
            for task, around, tasks in tasks_of(spec, label):
                assert kind_of(spec, task["inputs"]["parameters"][name], around, tasks) == "STRING"
                checked += 1
    assert checked == len(gpu_tasks(compiled))


KINDS_OF_JSON = {"nodeSelectorJson": "STRUCT", "tolerationJson": "LIST"}
"""What the driver parses as JSON, and the only fields of a pod's settings that are not constant."""


def references_in(settings):
    """Yield field and reference of each setting that is not a constant."""
    if isinstance(settings, list):
        for inner in settings:
            yield from references_in(inner)
    elif isinstance(settings, dict):
        for field, value in settings.items():
            if isinstance(value, dict) and {"componentInputParameter", "taskOutputParameter"} & set(
                value
            ):
                yield field, value
            else:
                yield from references_in(value)


def test_the_other_settings_of_a_pod_are_constant_or_of_the_type_kfp_parses(compiled):
    spec, checked = compiled[0], 0
    for label in spec["deploymentSpec"]["executors"]:
        for field, reference in references_in(settings_of(compiled, label.removeprefix("exec-"))):
            for _, around, tasks in tasks_of(spec, label):
                assert kind_of(spec, reference, around, tasks) == KINDS_OF_JSON[field]
                checked += 1
    assert checked == 2 * len(gpu_tasks(compiled))


def test_the_defaults_of_the_full_pipeline_are_one_h100(h100):
    parameters = h100[0]["root"]["inputDefinitions"]["parameters"]
    assert parameters["gpus"]["defaultValue"] == 1
    assert parameters["node_selector"]["defaultValue"] == {
        "cloud.google.com/gke-accelerator": "nvidia-h100-80gb"
    }
    [toleration] = parameters["tolerations"]["defaultValue"]
    assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert settings_of(h100, "finetune")["podMetadata"]["labels"] == {
        "kueue.x-k8s.io/queue-name": "h100"
    }


def test_the_pipeline_for_small_clusters_asks_for_no_gpu_and_no_queue():
    cpu = compiling.documents(compiling.FOLDER / "scgpt-perturb-cpu.yaml")
    parameters = cpu[0]["root"]["inputDefinitions"]["parameters"]
    assert parameters["gpus"]["defaultValue"] == 0
    assert parameters["node_selector"]["defaultValue"] == {}
    assert parameters["tolerations"]["defaultValue"] == []
    assert "labels" not in settings_of(cpu, "finetune")["podMetadata"]
    for executor in cpu[0]["deploymentSpec"]["executors"].values():
        resources = executor["container"]["resources"]
        assert resources["cpuRequest"] <= 2
        assert resources["memoryRequest"] <= 4.3


def root_parameters(file):
    return compiling.documents(compiling.FOLDER / file)[0]["root"]["inputDefinitions"]["parameters"]


@pytest.mark.parametrize("file", [file for file in compiling.PROFILES if "predict" not in file])
def test_the_form_offers_the_recipes_that_there_are_as_a_list(file):
    parameters = root_parameters(file)
    assert parameters["recipe"]["literals"] == recipe_names()
    assert parameters["recipe"]["defaultValue"] in recipe_names()
    # A list is closed: KFP would refuse table:<uri>.
    assert not any("literals" in parameters.get(name, {}) for name in ("prior", "priors"))


@pytest.mark.parametrize("name", form.EXAMPLE)
def test_the_form_for_small_clusters_runs_as_it_stands(name):
    given = {
        key: about.get("defaultValue")
        for key, about in root_parameters(Path(CPU.package(name)).name).items()
    }
    assert None not in given.values()
    given["gpus"] = int(given["gpus"])
    check_settings(given)
    assert given["dataset"].startswith("sim://")
    assert given["overrides"] == {}


@pytest.mark.parametrize("name", form.EXAMPLE)
def test_the_form_for_h100s_leaves_open_what_only_the_user_knows(name):
    parameters = root_parameters(Path(H100.package(name)).name)
    for key in ("dataset", "train_lines", "test_line", "pretrained"):
        assert "defaultValue" not in parameters[key] and not parameters[key].get("isOptional")


@pytest.mark.parametrize("name", compiling.PIPELINES)
def test_a_pipeline_has_the_same_tasks_and_parameters_on_every_cluster(name):
    files = [compiling.FOLDER / Path(profile.package(name)).name for profile in (H100, CPU)]
    h100, cpu = (compiling.documents(file)[0] for file in files)
    for spec in (h100, cpu):
        for parameter in spec["root"]["inputDefinitions"]["parameters"].values():
            for of_the_form in ("defaultValue", "isOptional"):
                parameter.pop(of_the_form, None)
        for loop in loops_of(spec):
            loop.pop("iteratorPolicy")
        for task in spec["components"]["comp-exit-handler-1"]["dag"]["tasks"].values():
            task.get("inputs", {}).get("parameters", {}).pop("package", None)
    assert h100["root"] == cpu["root"]
    assert set(h100["components"]) == set(cpu["components"])


def test_every_pod_has_a_user_a_deadline_requests_and_room_in_tmp(compiled):
    for executor in compiled[0]["deploymentSpec"]["executors"]:
        task = executor.removeprefix("exec-")
        settings, resources = settings_of(compiled, task), container_of(compiled, task)["resources"]
        assert settings["securityContext"]["runAsNonRoot"] is True
        assert settings["securityContext"]["runAsUser"] == "10001"
        assert int(settings["activeDeadlineSeconds"]) > 0
        assert resources["resourceCpuRequest"] and resources["resourceMemoryRequest"]
        mounts = {mount["mountPath"]: mount for mount in settings["emptyDirMounts"]}
        assert mounts["/tmp"]["sizeLimit"]
        assert ("/dev/shm" in mounts) == (task in ("finetune", "predict"))
        assert mounts.get("/dev/shm", {}).get("medium", "Memory") == "Memory"


def loops_of(spec):
    return [
        task
        for component in spec["components"].values()
        for task in component.get("dag", {}).get("tasks", {}).values()
        if "parameterIterator" in task
    ]


@pytest.mark.parametrize(("profile", "most"), [(H100, 4), (CPU, 1)])
def test_a_comparison_makes_screen_and_split_once_and_bounds_the_runs_at_a_time(profile, most):
    file = compiling.FOLDER / Path(profile.package("compare-priors")).name
    spec = compiling.documents(file)[0]
    [loop] = loops_of(spec)
    assert loop["iteratorPolicy"] == {"parallelismLimit": most}
    inside = spec["components"][loop["componentRef"]["name"]]["dag"]["tasks"]
    assert set(inside) == {"prior", "finetune", "predict", "evaluate"}
    outside = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    assert {"check-grid", "ingest", "split", "compare", "publish-best"} < set(outside)


@pytest.mark.parametrize(
    ("file", "first"),
    [("scgpt-perturb.yaml", "check"), ("compare-priors.yaml", "check-grid")],
)
def test_nothing_heavy_starts_before_names_are_checked(file, first):
    tasks = compiling.documents(compiling.FOLDER / file)[0]["components"]["comp-exit-handler-1"]
    for name, task in tasks["dag"]["tasks"].items():
        assert name == first or task["dependentTasks"], name
        if name in ("ingest", "prior"):
            assert first in task["dependentTasks"]


@pytest.mark.parametrize(
    ("file", "name"), [("scgpt-perturb", "prior"), ("compare-priors", "priors")]
)
def test_the_form_says_which_priors_there_are(file, name):
    spec = compiling.documents(compiling.FOLDER / f"{file}.yaml")[0]
    described = spec["root"]["inputDefinitions"]["parameters"][name]["description"]
    for kind in FORMS:
        assert kind in described


def test_only_prior_and_what_follows_from_it_take_the_prior_as_an_input(h100):
    """KFP keys its cache on a task's inputs, so what does not take a thing is not run again."""
    tasks = h100[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    takers = {
        name for name, task in tasks.items() if "pipelinechannel--prior" in str(task["inputs"])
    }
    assert takers == {"check", "prior"}
    after = {"prior"}
    while more := {name for name, task in tasks.items() if feeds(task) & after} - after:
        after |= more
    assert after == {"prior", "finetune", "predict", "evaluate", "publish"}


def feeds(task):
    """Return the tasks whose artifacts a task takes; an order alone is no input."""
    artifacts = task["inputs"].get("artifacts", {}).values()
    return {one["taskOutputArtifact"]["producerTask"] for one in artifacts}


def test_a_retry_may_take_as_long_as_every_try_together(h100):
    tasks = h100[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    retried = {name: task["retryPolicy"] for name, task in tasks.items() if "retryPolicy" in task}
    assert set(retried) == {"finetune", "predict"}
    for name, policy in retried.items():
        deadline = int(settings_of(h100, name)["activeDeadlineSeconds"])
        window = int(policy["backoffMaxDuration"].removesuffix("s"))
        assert window == deadline * (policy["maxRetryCount"] + 1)


def test_conclude_runs_whatever_became_of_the_others_and_is_never_cached(compiled):
    task = compiled[0]["root"]["dag"]["tasks"]["conclude"]
    assert task["triggerPolicy"] == {"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    assert task["dependentTasks"] == ["exit-handler-1"]
    assert not task["cachingOptions"].get("enableCache")


def test_a_task_whose_log_tells_the_result_is_never_cached(compiled):
    tasks = compiled[0]["components"]["comp-exit-handler-1"]["dag"]["tasks"]
    knowing = [task for name, task in tasks.items() if name in KNOWING]
    assert knowing and not any(task["cachingOptions"].get("enableCache") for task in knowing)


def test_a_run_ends_leaves_and_stays_where_it_is_by_its_own_settings(compiled):
    kubernetes = compiled[1]["platforms"]["kubernetes"]
    config, day = kubernetes["pipelineConfig"], 24 * 60 * 60
    assert config["resourceTtlOnSuccess"] == day
    assert config["resourceTtlOnFailure"] == 7 * day  # within which Retry is of use
    deadlines = [
        int(executor["activeDeadlineSeconds"])
        for executor in kubernetes["deploymentSpec"]["executors"].values()
    ]
    assert config["activeDeadlineSeconds"] > sum(deadlines)
    for executor in kubernetes["deploymentSpec"]["executors"].values():
        annotations = executor["podMetadata"]["annotations"]
        assert annotations == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def test_a_run_goes_on_without_a_secret(compiled):
    for executor in compiled[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        assert all(secret["optional"] for secret in executor.get("secretAsEnv", []))


def test_what_a_task_and_its_pod_take_reaches_the_tasks_around_it(compiled):
    """Else KFP's driver cannot resolve it: inside a loop the compiler hands on what it knows of."""
    spec, checked = compiled[0], 0
    for label in spec["deploymentSpec"]["executors"]:
        settings = settings_of(compiled, label.removeprefix("exec-"))
        for task, around, _ in tasks_of(spec, label):
            taken = re.findall(r"'componentInputParameter': '([^']+)'", f"{task} {settings}")
            there = around.get("inputDefinitions", {}).get("parameters", {})
            assert set(taken) <= set(there)
            checked += len(taken)
    assert checked > 10


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


@pytest.mark.parametrize(
    ("name", "seeded"),
    [
        ("scgpt-perturb.yaml", {"split", "prior", "finetune", "predict"}),
        ("compare-priors.yaml", {"split", "prior", "finetune", "predict"}),
        ("predict-line.yaml", {"split", "predict"}),
    ],
)
def test_the_seed_reaches_the_tasks_that_its_description_names(name, seeded):
    spec = compiling.documents(compiling.FOLDER / name)[0]
    components = spec["components"]
    given = {
        task["componentRef"]["name"].removeprefix("comp-").removeprefix("gene-")
        for dag in (spec["root"], *components.values())
        for task in dag.get("dag", {}).get("tasks", {}).values()
        if "seed" in task.get("inputs", {}).get("parameters", {})
    }
    assert {task for task in given if not task.startswith("check")} == seeded
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    for task in seeded if "seed" in parameters else ():
        assert task in parameters["seed"]["description"]


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("scgpt-perturb.yaml", ["publish"]),
        ("compare-priors.yaml", ["compare", "publish-best"]),
        ("predict-line.yaml", ["publish"]),
    ],
)
def test_what_a_run_ends_with_is_its_own_and_not_one_of_the_cache(name, made):
    """A local run looks for it in its own folder."""
    spec = compiling.documents(compiling.FOLDER / name)[0]
    tasks = {
        name: task
        for dag in (spec["root"], *spec["components"].values())
        for name, task in dag.get("dag", {}).get("tasks", {}).items()
    }
    for task in made:
        assert not tasks[task]["cachingOptions"].get("enableCache"), task
    assert tasks["predict"]["cachingOptions"]["enableCache"]
