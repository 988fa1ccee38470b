"""Rules on manifests beyond the schemas of Kubernetes: those of `rules.yaml`."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from pipelines.validation.tree import Object, Tree


@cache
def _rules() -> list[dict[str, Any]]:
    rules = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return [rule | {"schema": _closed(rule["schema"])} for rule in rules]


def _closed(schema: Any) -> Any:
    """Return a schema in which an object has the named properties and, unless open, no others."""
    if isinstance(schema, list):
        return [_closed(inner) for inner in schema]
    if not isinstance(schema, dict) or "const" in schema:
        return schema
    closed = {key: _closed(inner) for key, inner in schema.items() if key != "properties"}
    if named := schema.get("properties"):
        closed["type"] = "object"
        closed["properties"] = {name: _closed(inner) for name, inner in named.items()}
        closed["required"] = sorted(set(named) - set(closed.pop("optional", ())))
        closed["additionalProperties"] = closed.pop("open", False)
    return closed


def check_rules(tree: Tree) -> list[str]:
    """Objects and Terraform's resources keep the rules."""
    return [
        finding
        for rule in _rules()
        for o in (*tree.objects, *tree.terraform)
        if o.kind == rule["kind"]
        and o.name.startswith(rule.get("name", ""))
        and any(overlay.startswith(rule.get("overlay", "")) for overlay in o.overlays)
        for finding in _broken(o, rule)
    ]


def _broken(o: Object, rule: dict[str, Any]) -> Iterator[str]:
    where = f"{o}: {rule['at']}"
    try:
        value = at(o.data, rule["at"])
    except LookupError:
        return
    except yaml.YAMLError as error:
        yield f"{where}: not YAML ({' '.join(str(error).split())}); correct it"
        return
    for broken in jsonschema.Draft202012Validator(rule["schema"]).iter_errors(value):
        path = "".join(f".{part}" for part in broken.path)
        yield f"{where}{path}: {broken.message}; {rule['why']}; correct it"


def at(data: Any, path: str) -> Any:
    """Return what is at a path of keys and places with dots between, text parsed as YAML.

    Raises:
        LookupError: there is nothing.
        yaml.YAMLError: text that is not YAML.
    """
    for key in path.split("."):
        data = parsed(data[int(key)] if isinstance(data, list) else data[key])
    return data


def parsed(value: Any) -> Any:
    """Return a value, a text of several lines as the YAML that it is."""
    return yaml.safe_load(value) if isinstance(value, str) and "\n" in value else value
