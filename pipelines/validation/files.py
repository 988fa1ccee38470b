"""Files as they stand: YAML style, secrets, and as whom and where `make submit` runs pods."""

import re
from functools import cache

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


def check_style(tree: Tree) -> list[str]:
    """YAML files pass yamllint with the settings in .yamllint."""
    settings = tree.text(".yamllint")
    if not settings:
        return [".yamllint: no such file; expected yamllint's settings"]
    try:
        return [
            f"{path}:{problem}; correct it"
            for path, text in tree.files(*STYLED)
            for problem in _style(settings, text)
        ]
    except YamlLintConfigError as error:
        return [f".yamllint: {error}; correct it"]


@cache
def _style(settings: str, text: str) -> tuple[str, ...]:
    return tuple(
        f"{problem.line}: {problem.desc} ({problem.rule or 'syntax'})"
        for problem in linter.run(text, YamlLintConfig(settings))
    )


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
