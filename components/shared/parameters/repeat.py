"""The commands that repeat a run, for its reports: a run that is cloned loses its parameters."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

from components.shared.parameters.datasets import is_list, with_files
from components.shared.storage.downloads import shown

PLAIN = re.compile(r"[A-Za-z_./][\w./:?&=+@%#-]*(?<!:)", re.ASCII)
"""Text that YAML, and KFP's command line, read as itself."""
NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "null", "y", "n", ".inf", ".nan")
NOT_TEXT_FOR_KFP = ("nan", "inf", "infinity")
"""... but for these."""


OWN = {("predict", "model"): "MODEL", ("predict", "dataset"): "DATASET"}
"""Targets of the Makefile and parameters that they take as variables beside ARGS."""


def commands(target: str, package: str, parameters: Mapping[str, Any]) -> str:
    """Return the `make` line and the `kfp run create` line of a run, one below the other.

    ``target`` is of the Makefile: run or compare; ``package`` is a path in the repository.
    ``parameters`` are all that the result depends on, so that the parameter file that `make` reads
    besides changes nothing.
    """
    told = {name: _shown(value) for name, value in parameters.items()}
    if is_list(str(parameters.get("dataset", ""))):
        told["dataset"] = with_files(parameters["dataset"], shown)
    assignments = (shlex.quote(f"{name}={_for_kfp(value)}") for name, value in told.items())
    return "\n".join(
        [
            make_command(target, told),
            f"kfp run create -e scgpt-perturb -f {package} {' '.join(assignments)}",
        ]
    )


def make_command(target: str, parameters: Mapping[str, Any], file: str = "") -> str:
    """Return `make <target> [PARAMS=<file>] ARGS="…"`, quoted for the shell and for make.

    What `OWN` names is a variable of its own.
    """
    # Text parameters are taken as they stand.
    texts = {n: v if isinstance(v, str) else yaml_text(v) for n, v in parameters.items()}
    own = {OWN[target, name]: texts.pop(name) for name in [*texts] if (target, name) in OWN}
    words = " ".join(shlex.quote(f"{name}={text}") for name, text in texts.items())
    variables = [f"PARAMS={file}"] if file else []
    variables += [f"{name}={_for_make(text)}" for name, text in own.items()]
    return " ".join(["make", target, *variables, f'ARGS="{_escaped(words)}"'])


def _for_make(text: str) -> str:
    """Return the value of a variable of make's, in quotes where it needs them."""
    return text if not text or shlex.quote(text) == text else f'"{_escaped(text)}"'


def _escaped(text: str) -> str:
    # A dollar is make's and the shell's, the others are the shell's within double quotes.
    return re.sub(r'(["$`\\])', r"\\\1", text.replace("$", "$$"))


def yaml_text(value: Any) -> str:
    """Return a value as YAML in one line, with as few quotes as can be."""
    if isinstance(value, list):
        return f"[{', '.join(map(yaml_text, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_text(k)}: {yaml_text(v)}" for k, v in value.items()) + "}"
    # Between brackets a question mark begins a key.
    plain = isinstance(value, str) and PLAIN.fullmatch(value) and "?" not in value
    return value if plain and value.lower() not in NOT_TEXT else json.dumps(value)


def _for_kfp(value: Any) -> str:
    """Return the text that KFP's command line reads as ``value``, its type included."""
    words = (*NOT_TEXT, *NOT_TEXT_FOR_KFP)
    if isinstance(value, str) and (
        not value or (PLAIN.fullmatch(value) and value.lower() not in words)
    ):
        return value
    return json.dumps(value)


def _shown(value: Any) -> Any:
    """Return a value without secrets and digests in its URIs, whole floats as whole numbers.

    KFP's local runner hands whole numbers inside lists and dicts over as floats, and a dict in
    another order each time: the cache would not know the command again.
    """
    if isinstance(value, dict):
        return {key: _shown(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_shown(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return shown(value) if isinstance(value, str) else value
