"""Rules on the text of files: no secret, and a retry that matches what Argo says."""

import re

import yaml

from components.shared.telling.errors import InputError
from pipelines.validation.rules import at
from pipelines.validation.tree import Tree, documents

SCANNED = [f"manifests/**/*.{end}" for end in ("yaml", "md", "tf", "env")]
SCANNED += ["pipelines/params/*.yaml", ".github/workflows/*.y*ml"]
KEY = re.compile(
    r"hf_[A-Za-z0-9]{30,}|-----BEGIN [A-Z ]*PRIVATE KEY|ya29\.[\w-]{20,}"
    r"|(?i:api.?key|token)\W{1,4}[0-9a-f]{40}\b"
)
"""Tokens of the Hugging Face Hub and Google, private keys, Weights & Biases' keys."""
LOST = (
    "Pod was terminated in response to imminent node shutdown.",
    "The node was low on resource: memory. Threshold quantity: 100Mi, available: 40Mi.",
    "Preempted in order to admit critical pod",
    "pod failed: neither main nor wait container completed successfully",
    "main: Error (exit code 143)",
)
"""Argo's messages on a pod that is lost; the default retry must match these."""
FAILED = (
    "main: Error (exit code 1)",
    "main: OOMKilled (exit code 137)",
    "Pod was active on the node longer than the specified deadline",
)
"""Argo's messages on a task that failed; the default retry must not match these."""


def check_no_secrets(tree: Tree) -> list[str]:
    """No file holds secret material, in a Secret or anywhere."""
    findings = [
        f"{path}: Secret/{d['metadata']['name']}: {field}.{key} has a value; expected none in a "
        "file; kubectl create secret makes it"
        for path, text in tree.files("manifests/**/*.yaml")
        for d in documents(path, text)
        for field in ("data", "stringData")
        for key, value in (d.get(field) or {}).items()
        if d.get("kind") == "Secret" and value
    ]
    findings += [
        f"{o}: a secret is generated from a file; drop it; kubectl create secret makes it"
        for o in tree.all_of("Secret")
    ]
    return findings + [
        f"{path}:{number}: looks like a key; remove it, and revoke it where it was issued"
        for path, text in tree.files(*SCANNED)
        for number, line in enumerate(text.splitlines(), start=1)
        if KEY.search(line)
    ]


def check_retry(tree: Tree) -> list[str]:
    """Argo retries lost pods and only those."""
    findings = []
    for o in tree.all_of("ConfigMap"):
        try:
            defaults = at(o.data, "data.workflowDefaults")
            retry = str(at(defaults, "spec.templateDefaults.retryStrategy.expression"))
            patterns = [re.compile(p) for p in re.findall(r"matches\s+'([^']*)'", retry)]
        except (LookupError, TypeError, yaml.YAMLError):
            continue  # where there are defaults, a rule tells it
        except re.error as error:
            raise InputError(f"{o}: retryStrategy.expression: bad pattern ({error})") from None
        for message in (*LOST, *FAILED):
            retried = any(pattern.search(message) for pattern in patterns)
            if retried != (message in LOST):
                findings.append(
                    f"{o}: retryStrategy.expression: '{message}' is {'' if retried else 'not '}"
                    "retried; expected the opposite; correct it"
                )
    return findings
