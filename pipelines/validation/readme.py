"""The walk in the README: its commands can be given, in order, and its names exist."""

import re

from pipelines.validation.compiled import parameters, with_gpus
from pipelines.validation.tree import COMPILED, OWN, RELEASE, SECRETS, Tree

README = "manifests/README.md"


def check_commands(tree: Tree) -> list[str]:
    """Targets, parameters, files and versions in the README's commands exist."""
    commands = "\n".join(_commands(tree.text(README)))
    if not commands:
        return [f"{README}: no commands; expected the walk to a finished run"]
    findings = []
    targets = set(re.findall(r"^([a-z-]+):", tree.text("Makefile"), re.MULTILINE))
    for target in sorted(set(re.findall(r"\bmake ([a-z-]+)", commands)) - targets):
        findings.append(f"{README}: make {target}: not in Makefile; correct it")
    arguments = re.findall(r'ARGS="([^"]*)"', tree.text(README))
    given = re.findall(r"(?:^|[ '])([a-z_]+)(?:\.[a-z_]+)?=", "\n".join(arguments), re.MULTILINE)
    known = {name for _, spec, _ in tree.packages for name in parameters(spec)}
    for name in sorted(set(given) - known):
        findings.append(f"{README}: {name}=: not a parameter of the pipeline; correct it")
    for path in sorted(set(re.findall(r"(?<![\w/])(?:manifests|pipelines)/[\w./-]+", commands))):
        if not (tree.root / path).exists():
            findings.append(f"{README}: {path}: no such file; correct it")
    wanted = {"DEFAULTPIPELINERUNNERSERVICEACCOUNT": OWN, "KFP": _pinned(tree, "kfp")}
    for variable, value in wanted.items():
        for found in re.findall(rf"\b{variable}=(\S+)", commands):
            if found != value:
                findings.append(f"{README}: {variable}={found}; expected {value}; correct it")
    return findings


def _commands(text: str) -> list[str]:
    """Return the commands of the code blocks, each in one line."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def _pinned(tree: Tree, package: str) -> str:
    found = re.search(rf"^{package}==(\S+)$", tree.text("images/requirements.lock"), re.MULTILINE)
    return found[1] if found else ""


def check_submits(tree: Tree) -> list[str]:
    """What is submitted has the images that were pushed, or asks for no GPU where none is."""
    compiled, findings = [package for package, *_ in tree.packages], []
    for section in tree.text(README).split("\n## "):
        wanted = sorted(set(compiled) - with_gpus(tree))
        for command in _commands(section):
            if "make push" in command:
                wanted = [package.replace(COMPILED, RELEASE) for package in compiled]
            if "make submit" not in command:
                continue
            found = re.search(r"\bPACKAGE=(\S+)", command)
            if not found or found[1] not in wanted:
                findings.append(
                    f"{README}: make submit with PACKAGE={found[1] if found else ''}, whose images "
                    f"or GPUs this cluster has not; expected {' or '.join(wanted)}; set it"
                )
    return findings


def check_named(tree: Tree) -> list[str]:
    """Secrets, the ComputeClass and node pools that the README names exist."""
    text, findings = tree.text(README), []
    for path in (README, SECRETS):
        for secret, key in re.findall(
            r"create secret generic (\S+).*--from-file=([\w.-]+)=", tree.text(path)
        ):
            if key not in tree.secrets.get(secret, ()):
                findings.append(
                    f"{path}: makes secret {secret} with key {key}, which is not in {SECRETS}; "
                    "make them alike"
                )
    known = {
        "ComputeClass": {o.name for o in tree.all_of("ComputeClass")},
        "node pool": {*tree.pools, "cpu"},
    }
    for kind, pattern in (
        ("ComputeClass", r"\bcompute-?class:? ([a-z][\w-]*)"),
        ("node pool", r"\bgke-nodepool: ([\w-]+)|`(h100-[\w-]+)`"),
    ):
        named = {next(filter(None, m.groups())) for m in re.finditer(pattern, text)}
        findings += [
            f"{README}: {kind} {name}; there is {', '.join(sorted(known[kind])) or 'none'}; "
            "correct it"
            for name in sorted(named - known[kind])
        ]
    return findings
