"""Kubernetes' own objects: schemas, names, least privilege, quotas, policies."""

import json
from functools import cache
from typing import Any

import kubernetes_validate

from pipelines.validation.tree import NAMESPACE, OWN, Tree

KUBERNETES = "1.34"
REQUIRED = {
    ("Namespace", NAMESPACE),
    ("ServiceAccount", OWN),
    ("Role", OWN),
    ("RoleBinding", OWN),
    ("ConfigMap", "kfp-launcher"),
    ("PriorityClass", OWN),
    ("ResourceQuota", OWN),
    ("LimitRange", OWN),
    ("NetworkPolicy", OWN),
}
"""What every overlay must have, under the name that KFP or a pipeline looks for."""
CUSTOM = {"ResourceFlavor", "ClusterQueue", "LocalQueue", "ComputeClass"}
CLUSTER_SCOPED = {"Namespace", "PriorityClass", "ResourceFlavor", "ClusterQueue", "ComputeClass"}
SCOPED_QUOTA = {"pods", "cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu"} | {
    "limits.memory",
    "requests.nvidia.com/gpu",
}
"""What the API server takes in a quota that is scoped to a priority class."""


def check_kustomize(tree: Tree) -> list[str]:
    """Every overlay renders."""
    findings = [
        f"manifests/overlays/{name}: kustomize: {found.removeprefix('error: ')}; "
        f"see kubectl kustomize manifests/overlays/{name}"
        for name, found in tree.rendered.items()
        if isinstance(found, str)
    ]
    return findings if tree.rendered else ["manifests/overlays: none found; expected overlays"]


@cache
def _schema_error(document: str) -> str:
    try:
        kubernetes_validate.validate(json.loads(document), KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(part) for part in error.path) or '(top)'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return f"no such kind in Kubernetes {KUBERNETES}: {error.api_version} {error.kind}"
    return ""


def check_schemas(tree: Tree) -> list[str]:
    """Built-in objects are what Kubernetes' API takes; unknown fields are refused."""
    return [
        f"{o}: {error}; expected the fields of Kubernetes {KUBERNETES}; correct the name or value"
        for o in tree.objects
        if o.kind not in CUSTOM and (error := _schema_error(json.dumps(o.data)))
    ]


def check_names(tree: Tree) -> list[str]:
    """What is looked for by name has that name, and each object is in the namespace it must be."""
    findings = []
    for overlay, documents in tree.overlays.items():
        there = {(d["kind"], d["metadata"]["name"]) for d in documents}
        for kind, name in sorted(REQUIRED - there):
            like = sorted(n for k, n in there if k == kind and n.startswith(name))
            found = f"found {', '.join(like)}" if like else "found none"
            findings.append(
                f"manifests ({overlay}): {kind}/{name}: {found}; it is looked for by this very "
                "name; set it, and no generator's name-suffix hash"
            )
        findings += [
            f"manifests ({overlay}): {d['kind']}/{name}: is KFP's own, and applying it would drop "
            "KFP's part of it; expected a patch; move it to manifests/kfp"
            for d in documents
            if (name := d["metadata"]["name"]) in {p["metadata"]["name"] for p in tree.patches}
        ]
    for o in tree.objects:
        wanted = "" if o.kind in CLUSTER_SCOPED else NAMESPACE
        if o.namespace != wanted:
            findings.append(
                f"{o}: namespace '{o.namespace}'; expected "
                + (f"'{wanted}', where KFP standalone runs pods" if wanted else "none")
                + "; correct metadata.namespace"
            )
    return findings


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


def check_quota(tree: Tree) -> list[str]:
    """The quota counts the pods of runs alone, and each of their containers fits under it."""
    findings = []
    for quota in tree.all_of("ResourceQuota"):
        classes = [
            value
            for expression in quota.spec.get("scopeSelector", {}).get("matchExpressions", [])
            if expression.get("scopeName") == "PriorityClass"
            for value in expression.get("values", [])
        ]
        if not classes:
            findings.append(
                f"{quota}: counts KFP's own pods too; expected a scopeSelector on PriorityClass "
                f"{OWN}; add it"
            )
        findings += [
            f"{quota}: scoped to PriorityClass/{name}, which is not in manifests; correct the name"
            for name in classes
            if not tree.all_of("PriorityClass", name)
        ]
        findings += [
            f"{quota}: hard.{resource}: the API server refuses it under a PriorityClass scope; "
            "expected pods, requests.cpu, requests.memory, requests.nvidia.com/gpu; drop it "
            "(Kueue's ClusterQueue bounds ephemeral-storage)"
            for resource in quota.spec.get("hard", {})
            if resource not in SCOPED_QUOTA
        ]
    for limits in tree.all_of("LimitRange"):
        for item in limits.spec.get("limits", []):
            given = set(item.get("defaultRequest") or {})
            if missing := sorted({"cpu", "memory"} - given):
                findings.append(
                    f"{limits}: no defaultRequest of {', '.join(missing)}; the quota refuses "
                    "Argo's helper containers without; add it"
                )
            findings += [
                f"{limits}: '{field}' would put limits on KFP's own pods; expected defaultRequest "
                "alone; drop it"
                for field in ("max", "default")
                if item.get(field)
            ]
    return findings


def check_network_policies(tree: Tree) -> list[str]:
    """Policies hold for the pods of runs, not for KFP's."""
    label = "pipelines.kubeflow.org/v2_component"
    return [
        f"{policy}: podSelector {json.dumps(policy.spec.get('podSelector'))} selects KFP's own "
        f"pods; expected matchLabels {label}: 'true'; set it"
        for policy in tree.all_of("NetworkPolicy")
        if _labels(policy.spec).get(label) != "true"
    ]


def _labels(spec: dict[str, Any]) -> dict[str, str]:
    return (spec.get("podSelector") or {}).get("matchLabels") or {}


def check_pod_security(tree: Tree) -> list[str]:
    """The namespace keeps at least the level that KFP gives it."""
    label = "pod-security.kubernetes.io/enforce"
    return [
        f"{o}: {label} is {o.data['metadata'].get('labels', {}).get(label)}; expected baseline; "
        "a server-side apply would lower KFP's own setting; set it"
        for o in tree.all_of("Namespace")
        if o.data["metadata"].get("labels", {}).get(label) not in ("baseline", "restricted")
    ]
