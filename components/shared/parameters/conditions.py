"""Conditions on a pipeline's parameters that are checked before anything runs.

The check task asks for them first, and so do the commands that start or submit a run. They need the
parameters alone, and a look at the local paths that these name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.shared.artifacts.normalisation import TARGET_SUM, USUAL, read_target_sum
from components.shared.artifacts.perturbation_names import line_key, same_things, text_of
from components.shared.model.checkpoint_files import CHECKPOINT_FILES
from components.shared.parameters.datasets import files
from components.shared.parameters.numbers import check_fraction, whole_number
from components.shared.parameters.pretrained import parse_pretrained
from components.shared.parameters.prior_grammar import parse_prior, uris
from components.shared.parameters.stage_options import (
    INGEST_OPTIONS,
    SPLIT_OPTIONS,
    checked_options,
)
from components.shared.storage.files import SHA256, check_scheme, local_path, nearest_in_parent
from components.shared.telling.addresses import LOCAL, OURS, scheme_of
from components.shared.telling.errors import InputError, refusing, shortlist

PLACEHOLDER = re.compile(
    r"\byour-(bucket|file\.h5ad|line-[ab]|test-line|scgpt-folder)\b|<your[^>]*>"
)
"""Placeholder in a parameter file or an example for a name of the user's own."""
WHOLE = ("seed", "split_seed", "cells_per_perturbation", "gpus")
"""Parameters that are whole numbers from 0."""


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Check what the parameters of any of the pipelines alone can tell, of those that it has.

    That is options, lines, numbers, and whether local paths lead anywhere.

    Raises:
        InputError: an unknown or mistyped option, lines that cannot be, a number that is too small
            or large, or a local path where nothing is.
    """
    check_sendable(parameters)
    check_filled_in(parameters)
    for name in WHOLE:
        whole_number(name, parameters.get(name, 0))
    options = parameters.get("ingest_options"), parameters.get("split_options")
    ingest = checked_options(INGEST_OPTIONS, options[0], name="ingest_options")
    read_target_sum(ingest.get(TARGET_SUM, USUAL))
    if not text_of(parameters.get("control_label", "x")) and not ingest.get("missing_is_control"):
        raise InputError("control_label is empty; expected the label of control cells")
    split = checked_options(SPLIT_OPTIONS, options[1], name="split_options")
    check_fraction(split.get("val_fraction", 0.0))
    if "train_lines" in parameters:
        check_lines(
            parameters["train_lines"],
            parameters.get("test_line", ""),
            by_file=bool(split.get("split_file")),
        )
        if not parameters["train_lines"]:
            raise InputError("train_lines: is empty; expected a list of cell lines to train on")
    for name, named in _paths(parameters, split).items():
        for uri in named:
            if uri and scheme_of(uri) in LOCAL:
                check_local(uri, name)
            elif uri and scheme_of(uri) not in OURS:  # those are made up
                check_scheme(uri)
    _check_checkpoint(parameters.get("pretrained", ""))


def check_sendable(params: Mapping[str, Any]) -> None:
    """Check that each parameter can be sent as JSON, which has no word for a date or nan.

    Raises:
        InputError: a value that JSON has no word for, such as a date or nan, or text that no file
            can be called.
    """
    for name, value in params.items():
        with refusing((TypeError, ValueError), f"parameter {name}={value!r}: cannot be sent"):
            said = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
            if b"\\u0000" in said:
                raise ValueError("holds a null character")


def check_filled_in(parameters: Mapping[str, Any]) -> None:
    """Check that no value is one that a parameter file or an example only holds a place for."""
    found = {name: PLACEHOLDER.search(str(value)) for name, value in parameters.items()}
    left = {name: match[0] for name, match in found.items() if match}
    if left:
        named = ", ".join(f"{name}: '{text}'" for name, text in left.items())
        raise InputError(
            f"{named} only {'holds' if len(left) == 1 else 'hold'} a place in the parameter file; "
            f"put your own there, or give {' '.join(f'{name}=<yours>' for name in left)}"
        )


def check_local(uri: str, name: str) -> Path:
    """Check that a file or folder of this machine is there, and return it."""
    path = local_path(uri)
    try:
        if path.exists():
            return path
        hint = nearest_in_parent(path)
    except OSError as error:
        raise InputError(f"{name}={path}: is not readable ({error.strerror})") from None
    raise InputError(f"{name}={path}: no such file or folder{hint}; check the path")


def _check_checkpoint(pretrained: str) -> None:
    """Check that a local checkpoint's folder has its files."""
    asked = parse_pretrained(pretrained) if pretrained else None
    if asked and not asked.random_size and scheme_of(pretrained) in LOCAL:
        path = check_local(pretrained, "pretrained")
        for name in CHECKPOINT_FILES if path.is_dir() else ():
            check_local(str(path / name), "pretrained")


def check_lines(train_lines: Any, test_line: str, *, by_file: bool) -> None:
    """Check the lines of a run: those that train, if any, each once, the test line none of them.

    Raises:
        InputError: no list of names, a line given twice, or one that is trained on and tested.
    """
    if isinstance(train_lines, str) or not isinstance(train_lines, Sequence):
        raise InputError(f"train_lines: expected a list of cell lines, got {train_lines!r}")
    for line in train_lines:
        if isinstance(line, bool) or not isinstance(line, str | int | float) or not text_of(line):
            raise InputError(
                f"train_lines: {line!r} is not the name of a cell line; put names in quotes, as in "
                "['k562', 'no']"
            )
    names = [text_of(line) for line in train_lines]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"train_lines: {shortlist(twice)} given more than once; give each once")
    if same := same_things(names, line_key):
        raise InputError(f"train_lines: {shortlist(same[0])} are names of one line; give it once")
    if by_file:
        return
    if not text_of(test_line):
        raise InputError("test_line is empty; expected the cell line to predict")
    if line_key(text_of(test_line)) in map(line_key, names):
        way = (
            "take others to train on; in one line alone, single perturbations are held out by a "
            'split_file in split_options that lists them ([fewshot."dataset.cell_line"], test = '
            "[…]), with restrict_test_to_training false (see split's README, One line)"
            if len(names) == 1
            else "take it out of one of them"
        )
        raise InputError(
            f"test_line '{text_of(test_line)}' is one of train_lines; the test line must not be "
            f"trained on, {way}"
        )


def _paths(parameters: Mapping[str, Any], split: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the paths and URIs that parameters name, by parameter."""
    found = {"dataset": files(parameters.get("dataset", ""))}
    found["model"] = [parameters.get("model", "")]
    if "pretrained" in parameters:
        found["pretrained"] = [parse_pretrained(parameters["pretrained"]).vocabulary_uri]
    priors = parameters.get("priors") or [parameters.get("prior", "none")]
    for prior in (text for text in priors if isinstance(text, str)):
        found.setdefault("prior", []).extend(uris(parse_prior(prior)))
    for option in ("split_file", "aliases"):
        found[f"split_options.{option}"] = [split.get(option, "")]
    return {name: [uri.partition(SHA256)[0] for uri in named] for name, named in found.items()}
