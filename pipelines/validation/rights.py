"""What the service account of runs may do: what it must, and no more."""

from collections.abc import Iterator
from typing import Any

from pipelines.validation.tree import OWN, Tree

NEEDED = (
    ("argoproj.io", "workflowtaskresults", ("create", "patch"), ""),
    ("", "configmaps", ("get",), "kfp-launcher"),
    ("", "pods", ("get",), ""),
)
"""API group, resource, verbs and, where one object will do, its name; see base/rbac.yaml."""
OBJECT_STORE = ("", "secrets", ("get",), "mlpipeline-minio-artifact")
"""Needed as well where artifacts go to KFP's own object store."""


def check_rbac(tree: Tree) -> list[str]:
    """Roles grant no wildcard and no secret at large; bindings name what exists."""
    findings = []
    for role in [*tree.all_of("Role"), *tree.all_of("ClusterRole")]:
        for rule in role.data.get("rules") or []:
            for field in ("apiGroups", "resources", "verbs"):
                if "*" in (rule.get(field) or []):
                    findings.append(f"{role}: {field}: '*'; expected the few it needs; list them")
            if "secrets" in rule.get("resources", []) and not rule.get("resourceNames"):
                findings.append(f"{role}: all secrets; expected resourceNames; name the secret")
    for binding in tree.all_of("RoleBinding"):
        ref = binding.data.get("roleRef", {})
        if not tree.all_of(str(ref.get("kind")), str(ref.get("name"))):
            findings.append(
                f"{binding}: no {ref.get('kind')}/{ref.get('name')}; correct roleRef.name"
            )
        for subject in binding.data.get("subjects") or []:
            kind, name = str(subject.get("kind")), str(subject.get("name"))
            if not tree.all_of(kind, name):
                findings.append(
                    f"{binding}: no {kind}/{name} in manifests; expected "
                    f"ServiceAccount/{OWN}; correct subjects"
                )
    return findings


def check_needed_rights(tree: Tree) -> list[str]:
    """Pods of runs may do what Argo and KFP do in them."""
    return tree.in_each_overlay(_missing_rights)


def _missing_rights(_: str, documents: list[dict[str, Any]]) -> list[str]:
    rules = list(_granted(documents))
    stores = [d for d in documents if d["metadata"]["name"] == "kfp-launcher"]
    inside = any(
        d.get("data", {}).get("defaultPipelineRoot", "").startswith("minio://") for d in stores
    )
    return [
        f"no Role lets pods of runs {verb} {resource}{f' {name}' if name else ''}; without, every "
        "task fails; add the rule"
        for group, resource, verbs, name in (*NEEDED, *([OBJECT_STORE] if inside else []))
        for verb in verbs
        if not any(_grants(rule, group, resource, verb, name) for rule in rules)
    ]


def _granted(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rules of the roles that are bound; to whom, check_rbac looks at."""
    bound = {
        d.get("roleRef", {}).get("name")
        for d in documents
        if d["kind"] == "RoleBinding" and d.get("subjects")
    }
    for document in documents:
        if document["kind"] == "Role" and document["metadata"]["name"] in bound:
            yield from document.get("rules") or []


def _grants(rule: dict[str, Any], group: str, resource: str, verb: str, name: str) -> bool:
    wanted = (("apiGroups", group), ("resources", resource), ("verbs", verb))
    names = rule.get("resourceNames") or [name]
    return name in names and all(
        {value, "*"} & set(rule.get(field) or []) for field, value in wanted
    )
