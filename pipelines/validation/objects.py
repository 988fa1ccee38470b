"""Kubernetes' own objects: schemas, names, pod security."""

import json
from functools import cache

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


def check_pod_security(tree: Tree) -> list[str]:
    """The namespace keeps at least the level that KFP gives it."""
    label = "pod-security.kubernetes.io/enforce"
    return [
        f"{o}: {label} is {o.data['metadata'].get('labels', {}).get(label)}; expected baseline; "
        "a server-side apply would lower KFP's own setting; set it"
        for o in tree.all_of("Namespace")
        if o.data["metadata"].get("labels", {}).get(label) not in ("baseline", "restricted")
    ]
