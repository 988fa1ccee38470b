"""Where a run may be published, as far as the text alone tells: checked before anything runs."""

from components.shared.storage.buckets import FORMS, SCHEMES
from components.shared.storage.downloads import check_remote_path, shown
from components.shared.storage.objects import split_uri
from components.shared.telling.addresses import scheme_of
from components.shared.telling.errors import InputError

ALLOWED = f"a folder, file://, {FORMS}, hf://<owner>/<name>[@branch], or empty"


def check_target_form(publish_to: str) -> None:
    """Check the scheme and the form of `publish_to`; nothing is looked up."""
    scheme = scheme_of(publish_to)
    if scheme in SCHEMES:
        if prefix := split_uri(publish_to)[1]:
            check_remote_path(prefix.rstrip("/"), publish_to)
    elif scheme == "hf":
        repository_of(publish_to)
    elif scheme not in ("", "file"):
        raise InputError(
            f"publish_to '{shown(publish_to)}': scheme '{scheme}://'; allowed: {ALLOWED}"
        )


def repository_of(uri: str) -> tuple[str, str]:
    """Return repository id and branch of ``hf://<owner>/<name>[@branch]``.

    Raises:
        InputError: it is not written so, or no name that a repository can have.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    name, _, branch = uri.split("://", 1)[1].partition("@")
    if name.count("/") != 1 or name.startswith(("models/", "datasets/")):
        raise InputError(f"publish_to {uri}: expected hf://<owner>/<name>[@branch]")
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise InputError(
            f"publish_to {uri}: '{name}' is not a valid name of a repository"
        ) from None
    return name, branch or "main"
