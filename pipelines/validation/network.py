"""Network policies: pods of runs reach what they need, and nobody else is held up."""

import ipaddress
import json
from dataclasses import dataclass
from typing import Any

from pipelines.validation.tree import Tree

LABEL = "pipelines.kubeflow.org/v2_component"
ANYWHERE = "the outside"
PODS = "pods of the namespace"
UI = "ml-pipeline-ui"


@dataclass(frozen=True)
class Way:
    """A way out that pods of runs need."""

    to: str
    """ANYWHERE, PODS, UI, or an address."""
    port: int
    why: str
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.protocol} {self.port} to {self.to} ({self.why})"


NEEDED = {
    "": (
        Way(ANYWHERE, 53, "DNS", "UDP"),
        Way(ANYWHERE, 53, "DNS"),
        Way(ANYWHERE, 443, "buckets, the Hub, the Kubernetes API"),
        Way(PODS, 8080, "KFP's metadata-grpc-service"),
        Way(PODS, 8887, "KFP's ml-pipeline"),
        Way(PODS, 8888, "KFP's API, which conclude asks"),
        Way(UI, 3000, "the logs that conclude quotes"),
        Way(PODS, 8333, "KFP's object store"),
    ),
    "gke": (
        Way("169.254.169.254", 80, "the metadata server"),
        Way("169.254.169.252", 988, "the metadata server of older clusters"),
    ),
    "kind": (Way(ANYWHERE, 6443, "kubeadm's API server"),),
}
"""By how the names of the overlays begin."""


def check_network_policies(tree: Tree) -> list[str]:
    """Policies hold for the pods of runs, not for KFP's."""
    return [
        f"{policy}: podSelector {json.dumps(policy.spec.get('podSelector'))} selects KFP's own "
        f"pods; expected matchLabels {LABEL}: 'true'; set it"
        for policy in tree.all_of("NetworkPolicy")
        if _labels(policy.spec).get(LABEL) != "true"
    ]


def check_ways_out(tree: Tree) -> list[str]:
    """Pods of runs reach what they need, and nobody calls them."""
    return tree.in_each_overlay(_closed)


def _closed(overlay: str, documents: list[dict[str, Any]]) -> list[str]:
    policies = [
        d.get("spec") or {}
        for d in documents
        if d["kind"] == "NetworkPolicy" and _labels(d.get("spec") or {}).keys() <= {LABEL}
    ]
    types = {kind for policy in policies for kind in _types(policy)}
    rules = [rule for policy in policies for rule in policy.get("egress") or []]
    needed = [way for start, ways in NEEDED.items() if overlay.startswith(start) for way in ways]
    return [
        f"no NetworkPolicy bounds the {kind} of pods of runs; expected policyTypes [Ingress, "
        "Egress]; add it"
        for kind in ("Ingress", "Egress")
        if kind not in types
    ] + [
        f"no NetworkPolicy lets pods of runs reach {way}; add the egress rule"
        for way in needed
        if "Egress" in types and not any(_lets(rule, way) for rule in rules)
    ]


def _labels(spec: dict[str, Any]) -> dict[str, str]:
    return (spec.get("podSelector") or {}).get("matchLabels") or {}


def _types(policy: dict[str, Any]) -> list[str]:
    """Return what a policy bounds; Kubernetes' default is Ingress, and Egress if it has rules."""
    return policy.get("policyTypes") or ["Ingress", *(["Egress"] if policy.get("egress") else [])]


def _lets(rule: dict[str, Any], way: Way) -> bool:
    ports, peers = rule.get("ports"), rule.get("to")
    return (not ports or any(_is_port(port, way) for port in ports)) and (
        not peers or any(_is_peer(peer, way.to) for peer in peers)
    )


def _is_port(port: dict[str, Any], way: Way) -> bool:
    return port.get("protocol", "TCP") == way.protocol and port.get("port") in (None, way.port)


def _is_peer(peer: dict[str, Any], to: str) -> bool:
    if to == PODS:
        return peer == {"podSelector": {}}
    if to == UI:
        return peer == {"podSelector": {"matchLabels": {"app": UI}}}
    block = peer.get("ipBlock", {})
    if to == ANYWHERE:
        return block == {"cidr": "0.0.0.0/0"}
    return "cidr" in block and ipaddress.ip_address(to) in ipaddress.ip_network(block["cidr"])
