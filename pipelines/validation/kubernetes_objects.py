"""Kubernetes' own objects: schemas, names, references, and what pods of runs may do and reach."""

import json
from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import kubernetes_validate

from pipelines.validation.rules import parsed
from pipelines.validation.tree import NAMESPACE, OWN, Tree

KUBERNETES = "1.34"
REQUIRED = {
    *((kind, OWN) for kind in ("ServiceAccount", "Role", "RoleBinding", "PriorityClass")),
    *((kind, OWN) for kind in ("ResourceQuota", "LimitRange", "NetworkPolicy")),
    ("Namespace", NAMESPACE),
    ("ConfigMap", "kfp-launcher"),
}
"""Objects that every overlay must have, under the name that KFP or a pipeline looks for."""
CUSTOM = {
    "ResourceFlavor": "kueue.x-k8s.io/v1beta2",
    "ClusterQueue": "kueue.x-k8s.io/v1beta2",
    "LocalQueue": "kueue.x-k8s.io/v1beta2",
    "ComputeClass": "cloud.google.com/v1",
}
"""Kinds that Kubernetes' schemas do not know; the fields that we use are in rules.yaml."""
CLUSTER_SCOPED = {"Namespace", "PriorityClass", *CUSTOM} - {"LocalQueue"}
REFERENCES = (
    ("RoleBinding", "roleRef.name", "Role"),
    ("RoleBinding", "subjects.*.name", "ServiceAccount"),
    ("ResourceQuota", "spec.scopeSelector.matchExpressions.*.values.*", "PriorityClass"),
    ("ConfigMap", "data.workflowDefaults.spec.podPriorityClassName", "PriorityClass"),
    ("LocalQueue", "spec.clusterQueue", "ClusterQueue"),
    ("ClusterQueue", "spec.resourceGroups.*.flavors.*.name", "ResourceFlavor"),
)
"""Kind, path and the kind of what is named there."""
LABEL = "pipelines.kubeflow.org/v2_component"
MAY: dict[str, set[str]] = {
    "": {
        "create argoproj.io workflowtaskresults",
        "patch argoproj.io workflowtaskresults",
        "get configmaps kfp-launcher",
        "get pods",
        "reach UDP 53 anywhere",
        "reach TCP 53 anywhere",
        "reach TCP 443 anywhere",  # buckets, the Hub, the Kubernetes API
        "reach TCP 8080 of the namespace",  # KFP's metadata-grpc-service
        "reach TCP 8887 of the namespace",  # KFP's ml-pipeline
        "reach TCP 8888 of the namespace",  # KFP's API, which conclude asks
        "reach TCP 8333 of the namespace",  # KFP's object store
        "reach TCP 3000 of app ml-pipeline-ui",  # the logs that conclude quotes
    },
    "gke": {  # the metadata server, and that of older clusters
        *(f"reach TCP {port} of 169.254.169.254/32" for port in (80, 8080)),
        *(f"reach TCP {port} of 169.254.169.252/32" for port in (987, 988)),
    },
    "kind": {
        "get secrets mlpipeline-minio-artifact",  # of the object store that KFP brings along
        *(f"reach TCP {port} anywhere" for port in (6443, 8443)),  # kubeadm's API server
    },
}
"""Permissions of the pods of runs, and no more, by how the names of overlays begin."""


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
    data = json.loads(document)
    if data["kind"] in CUSTOM:
        version = CUSTOM[data["kind"]]
        return "" if data["apiVersion"] == version else f"apiVersion is not {version}"
    try:
        kubernetes_validate.validate(data, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return f"{'.'.join(str(part) for part in error.path) or '(top)'}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return f"no such kind in Kubernetes {KUBERNETES}: {error.api_version} {error.kind}"
    return ""


def check_schemas(tree: Tree) -> list[str]:
    """Objects are what Kubernetes' API takes; unknown fields are refused."""
    return [
        f"{o}: {error}; expected the fields of Kubernetes {KUBERNETES}; correct the name or value"
        for o in tree.objects
        if (error := _schema_error(json.dumps(o.data)))
    ]


def check_names(tree: Tree) -> list[str]:
    """What is looked for by name has that name, and each object is in the namespace it must be."""
    findings = []
    own = {patch["metadata"]["name"] for patch in tree.patches}
    for overlay, documents in tree.overlays.items():
        there = {(d["kind"], d["metadata"]["name"]) for d in documents}
        for kind, name in sorted(REQUIRED - there):
            like = sorted(n for k, n in there if k == kind and n.startswith(name))
            findings.append(
                f"manifests ({overlay}): {kind}/{name}: found {', '.join(like) or 'none'}; it is "
                "looked for by this very name; set it, and no generator's name-suffix hash"
            )
        findings += [
            f"manifests ({overlay}): {kind}/{name}: is KFP's own, and applying it would drop "
            "KFP's part of it; expected a patch; move it to manifests/kfp"
            for kind, name in there
            if name in own
        ]
    for o in tree.objects:
        wanted = "" if o.kind in CLUSTER_SCOPED else NAMESPACE
        if (found := o.data["metadata"].get("namespace", "")) != wanted:
            findings.append(f"{o}: namespace '{found}'; expected '{wanted}'; correct it")
    return findings


def check_references(tree: Tree) -> list[str]:
    """What an object names is there."""
    return [
        f"{o}: no {wanted}/{name}, which its {path} names; correct the name"
        for kind, path, wanted in REFERENCES
        for o in tree.all_of(kind)
        for name in _all_at(o.data, path.split("."))
        if not tree.all_of(wanted, name)
    ]


def _all_at(data: Any, path: list[str]) -> Iterator[str]:
    if not path:
        yield str(data)
    elif path[0] == "*":
        for inner in data or ():
            yield from _all_at(inner, path[1:])
    elif isinstance(data, dict) and path[0] in data:
        yield from _all_at(parsed(data[path[0]]), path[1:])


def check_allowed(tree: Tree) -> list[str]:
    """Pods of runs may do and reach what they must, no more, and nobody calls them."""
    return tree.in_each_overlay(_unlike)


def _unlike(overlay: str, documents: list[dict[str, Any]]) -> list[str]:
    wanted = set().union(*(MAY[start] for start in MAY if overlay.startswith(start)))
    found = {*_rights(documents), *_ways(documents)}
    policies = [d["spec"] for d in documents if d["kind"] == "NetworkPolicy"]
    bound = {kind for policy in policies for kind in policy.get("policyTypes") or ()}
    return [
        *(
            f"nothing lets pods of runs {what}; without, tasks fail; add it"
            for what in sorted(wanted - found)
        ),
        *(
            f"pods of runs may {what}, which no task needs; drop it, or add it to MAY in "
            "pipelines/validation/kubernetes_objects.py"
            for what in sorted(found - wanted)
        ),
        *(
            f"no NetworkPolicy bounds the {kind} of pods of runs; add it to policyTypes"
            for kind in sorted({"Ingress", "Egress"} - bound)
        ),
    ]


def _rights(documents: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what the roles let our service account do that are bound to it."""
    bound = {
        binding["roleRef"].get("name")
        for binding in documents
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding")
        and any(subject.get("name") == OWN for subject in binding.get("subjects") or ())
    }
    for role in documents:
        if role["kind"] in ("Role", "ClusterRole") and role["metadata"]["name"] in bound:
            for rule in role.get("rules") or ():
                fields = [rule.get(key) or [""] for key in ("verbs", "apiGroups", "resources")]
                for words in product(*fields, rule.get("resourceNames") or [""]):
                    yield " ".join(filter(None, words))


def _ways(documents: list[dict[str, Any]]) -> Iterator[str]:
    """Yield where network policies let pods of runs go."""
    for policy in (d.get("spec") or {} for d in documents if d["kind"] == "NetworkPolicy"):
        if policy.get("podSelector") != {"matchLabels": {LABEL: "true"}}:
            continue
        for rule in policy.get("egress") or ():
            for port, peer in product(rule.get("ports") or [{}], rule.get("to") or [None]):
                yield f"reach {port.get('protocol', 'TCP')} {port.get('port', 'any')} {_peer(peer)}"


def _peer(peer: dict[str, Any] | None) -> str:
    if peer is None or peer == {"ipBlock": {"cidr": "0.0.0.0/0"}}:
        return "anywhere"
    if peer == {"podSelector": {}}:
        return "of the namespace"
    if "cidr" in peer.get("ipBlock", {}):
        return f"of {peer['ipBlock']['cidr']}"
    labels = peer.get("podSelector", {}).get("matchLabels") or peer
    return f"of {' '.join(f'{key} {value}' for key, value in labels.items())}"
