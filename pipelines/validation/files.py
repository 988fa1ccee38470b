"""Files as they stand: YAML style, secrets, and what the commands of the README name."""

import re

import yaml
from yamllint import linter
from yamllint.config import YamlLintConfig, YamlLintConfigError

from pipelines.validation.tree import NAMESPACE, OWN, Tree

STYLED = ("manifests/**/*.yaml", "pipelines/params/*.yaml", ".github/workflows/*.y*ml")
SCANNED = (*STYLED, "manifests/**/*.md", "manifests/**/*.tf", "manifests/**/*.env")
KEY = re.compile(
    r"hf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|ya29\.[\w-]{20,}"
    r"|(?i:api.?key|token)\W{1,4}[0-9a-f]{40}\b"
)
"""Tokens of the Hugging Face Hub and Google, private keys, Weights & Biases' keys."""
README = "manifests/README.md"


def check_style(tree: Tree) -> list[str]:
    """YAML files pass yamllint with the settings in .yamllint."""
    settings = tree.text(".yamllint")
    if not settings:
        return [".yamllint: no such file; expected yamllint's settings"]
    try:
        config = YamlLintConfig(settings)
    except YamlLintConfigError as error:
        return [f".yamllint: {error}; correct it"]
    return [
        f"{path}:{problem.line}: {problem.desc} ({problem.rule or 'syntax'}); correct it"
        for path, text in tree.files(*STYLED)
        for problem in linter.run(text, config)
    ]


def check_secrets(tree: Tree) -> list[str]:
    """No manifest holds secret material, in a Secret or anywhere."""
    findings = []
    for path, text in tree.files("manifests/**/*.yaml"):
        try:
            documents = [d for d in yaml.safe_load_all(text) if isinstance(d, dict)]
        except yaml.YAMLError:
            continue  # check_style tells it
        for document in documents:
            if document.get("secretGenerator"):
                findings.append(f"{path}: secretGenerator: reads a secret from a file; drop it")
            if document.get("kind") != "Secret":
                continue
            findings += [
                f"{path}: Secret/{document['metadata']['name']}: {field}.{key} has a value; "
                "expected none in a file; kubectl create secret makes it"
                for field in ("data", "stringData")
                for key, value in (document.get(field) or {}).items()
                if value
            ]
    return findings + [
        f"{path}:{number}: looks like a key; remove it, and revoke it where it was issued"
        for path, text in tree.files(*SCANNED)
        for number, line in enumerate(text.splitlines(), start=1)
        if KEY.search(line)
    ]


def check_readme(tree: Tree) -> list[str]:
    """Targets, parameters, files and names in the README's commands exist."""
    commands = "\n".join(re.findall(r"```\w*\n(.*?)```", tree.text(README), re.DOTALL))
    if not commands:
        return [f"{README}: no commands; expected the walk to a finished run"]
    findings = []
    targets = set(re.findall(r"^([a-z-]+):", tree.text("Makefile"), re.MULTILINE))
    for target in sorted(set(re.findall(r"\bmake ([a-z-]+)", commands)) - targets):
        findings.append(f"{README}: make {target}: not in Makefile; correct it")
    known = {
        name
        for _, spec, _ in tree.packages
        for name in spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    }
    arguments = re.findall(r'ARGS="([^"]*)"', tree.text(README))
    given = re.findall(r"(?:^|[ '])([a-z_]+)(?:\.[a-z_]+)?=", "\n".join(arguments), re.MULTILINE)
    for name in sorted(set(given) - known):
        findings.append(f"{README}: {name}=: not a parameter of the pipeline; correct it")
    for path in sorted(set(re.findall(r"(?<![\w/])(?:manifests|pipelines)/[\w./-]+", commands))):
        if not (tree.root / path).exists():
            findings.append(f"{README}: {path}: no such file; correct it")
    wanted = {
        "DEFAULTPIPELINERUNNERSERVICEACCOUNT": OWN,
        "KFP": _pinned(tree, "kfp"),
    }
    for variable, value in wanted.items():
        for found in re.findall(rf"\b{variable}=(\S+)", commands):
            if found != value:
                findings.append(f"{README}: {variable}={found}; expected {value}; correct it")
    return findings


def _pinned(tree: Tree, package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", tree.text("images/requirements.lock"), re.MULTILINE)
    return found[1] if found else ""


def check_submit(tree: Tree) -> list[str]:
    """`make submit` runs pods where, and as whom, the manifests expect."""
    text, findings = tree.text("pipelines/submit.py"), []
    for option, wanted in (("--service-account", OWN), ("--namespace", NAMESPACE)):
        found = re.search(rf'"{option}", default="([^"]*)"', text)
        if not found or found[1] != wanted:
            findings.append(
                f"pipelines/submit.py: {option} is {found[1] if found else 'not there'}; the "
                f"manifests have {wanted}; make them alike"
            )
    return findings
