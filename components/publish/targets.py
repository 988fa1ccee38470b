"""Where a published folder can go: a folder, a bucket, the Hugging Face Hub. All or nothing."""

import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.publish.published_files import SOMETIMES
from components.shared.artifacts.artifact import PROVENANCE, beside
from components.shared.parameters.publish_to import check_target_form, repository_of
from components.shared.storage.buckets import SCHEMES, open_bucket
from components.shared.storage.downloads import shown, watching
from components.shared.storage.files import local_path
from components.shared.storage.objects import Bucket, Stored, split_uri
from components.shared.telling.addresses import scheme_of, without_secrets
from components.shared.telling.errors import InputError, nearest, say, shortlist

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo, HfApi

TOKEN = "HF_TOKEN"  # noqa: S105  the variable's name


def check_target(publish_to: str) -> None:
    """Check that a run can be published at ``publish_to``, before any work is done for it.

    Raises:
        InputError: the scheme is not allowed, something is there already, or there is no access.
    """
    scheme = scheme_of(publish_to)
    if not publish_to:
        return
    check_target_form(publish_to)
    if scheme in ("", "file"):
        _check_folder(local_path(publish_to))
    elif scheme in SCHEMES:
        _check_bucket(publish_to)
    else:
        _check_hub(publish_to)


def upload(folder: Path, publish_to: str) -> str:
    """Copy a published folder to ``publish_to``, whole or not at all; return where it is now."""
    scheme = scheme_of(publish_to)
    if scheme in SCHEMES:
        return _to_bucket(folder, publish_to)
    if scheme == "hf":
        return _to_hub(folder, publish_to)
    path = local_path(publish_to)
    # Copied, not linked: who edits the published card must not change the run's artifacts.
    with beside(path) as draft:
        shutil.copytree(folder, draft, dirs_exist_ok=True)
    return str(path)


def _files(folder: Path) -> list[Path]:
    """Return every file, `provenance.json` last: where it is, everything is."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(files, key=lambda path: (path == folder / PROVENANCE, path))


def _say(text: str) -> None:
    say(f"publish: {without_secrets(text)}")


def _check_folder(path: Path) -> None:
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError(
            f"publish_to {path}: exists already; give another folder or remove it first"
        )
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise InputError(f"publish_to {path}: {above} is not a writable folder")


def _object(prefix: str, name: str) -> str:
    return f"{prefix.rstrip('/')}/{name}" if prefix.strip("/") else name


def _check_bucket(uri: str) -> None:
    prefix = split_uri(uri)[1]
    bucket = open_bucket(uri)
    wanted = _object(prefix, PROVENANCE)
    with bucket.errors(uri):
        # Listing (unlike a look-up of one object) also fails where there is no bucket.
        if any(stored.name == wanted for stored in bucket.list(wanted)):
            raise InputError(
                f"publish_to {uri}: {PROVENANCE} is there already, so a run was published there; "
                "give another prefix"
            )


def _to_bucket(folder: Path, uri: str) -> str:
    prefix = split_uri(uri)[1]
    files = _files(folder)
    total = sum(path.stat().st_size for path in files)
    bucket = open_bucket(uri)
    uploaded = []
    with watching(total, f"uploading to {shown(uri)}") as moved:
        try:
            for path in files:
                remote = _object(prefix, path.relative_to(folder).as_posix())
                with bucket.errors(f"{bucket.uri}/{remote}"):
                    stored = bucket.upload(path, remote)
                if stored is not None:
                    uploaded.append(stored)
                moved(path.stat().st_size)
        except BaseException:
            _say(f"note: failed; deleting the {len(uploaded)} objects that were uploaded")
            _delete(bucket, uploaded)
            raise
    return uri


def _delete(bucket: Bucket, uploaded: list[Stored]) -> None:
    for stored in reversed(uploaded):
        try:
            bucket.delete(stored)
        except Exception as error:
            # The failure that led here matters more, and the other objects can still go.
            _say(f"note: could not delete {bucket.uri}/{stored.name} ({type(error).__name__})")


def _token() -> str:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InputError(f"publish_to hf://: the environment has no {TOKEN}; set a write token")
    return token


def _check_hub(uri: str) -> None:
    from huggingface_hub import HfApi

    from components.shared.storage import hf as storage_hf

    repository, _ = repository_of(uri)
    api = HfApi(token=_token())
    with storage_hf.errors(f"publish_to {uri}", repository):
        user = storage_hf.trying(f"publish_to {uri}", api.whoami)
    check_rights(user, repository.partition("/")[0], uri)


def check_rights(user: Mapping[str, Any], owner: str, uri: str) -> None:
    """Check that a token may write for ``owner``, as far as the Hub's answer on its user tells.

    What a fine-grained token may do is not told.
    """
    role = ((user.get("auth") or {}).get("accessToken") or {}).get("role")
    if role == "read":
        raise InputError(
            f"publish_to {uri}: {TOKEN} may only read; make a token of type write on the Hub's "
            "page of access tokens, and set it"
        )
    if role != "write" or "orgs" not in user:
        return
    own = [str(user.get("name")), *(str(org.get("name")) for org in user["orgs"] or ())]
    if owner.casefold() not in (name.casefold() for name in own):
        raise InputError(
            f"publish_to {uri}: '{owner}' is neither the user of {TOKEN} nor one of its "
            f"organisations{nearest(owner, own)} ({shortlist(own)}); give one of these as owner"
        )


def _to_hub(folder: Path, uri: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import disable_progress_bars

    from components.shared.storage import hf as storage_hf

    repository, branch = repository_of(uri)
    api = HfApi(token=_token())
    files = {path.relative_to(folder).as_posix(): path for path in _files(folder)}
    total = sum(path.stat().st_size for path in files.values())
    if not sys.stderr.isatty():
        disable_progress_bars()
    _say(f"uploading {len(files)} files, {total / 1e9:.3f} GB, to {uri}")
    where = f"publish_to {uri}"
    with storage_hf.errors(where, repository):
        commit = storage_hf.trying(where, lambda: _commit(api, repository, branch, files))
        there = storage_hf.trying(
            where, lambda: set(api.list_repo_files(repository, revision=commit.oid))
        )
    if missing := sorted(files.keys() - there):
        raise InputError(f"{where}: commit {commit.oid} lacks {shortlist(missing)}; run it again")
    return str(commit.commit_url)


def _commit(api: "HfApi", repository: str, branch: str, files: dict[str, Path]) -> "CommitInfo":
    """Make one commit of all the files; made already, it is found and not made again."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    # A repository that is made here is private: its owner opens it, having read the card.
    api.create_repo(repository, private=True, exist_ok=True)
    if branch != "main":
        api.create_branch(repository, branch=branch, exist_ok=True)
    stale = [
        CommitOperationDelete(name)
        for name in SOMETIMES
        if name not in files and api.file_exists(repository, name, revision=branch)
    ]
    additions = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    # Or a .gitignore in the repository would leave files out without a word.
    api.preupload_lfs_files(
        repository, additions, revision=branch, free_memory=False, gitignore_content="# nothing\n"
    )
    return api.create_commit(
        repository,
        [*stale, *additions],
        commit_message="Publish a run of scgpt-perturb",
        revision=branch,
    )
