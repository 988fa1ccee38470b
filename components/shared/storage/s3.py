"""Objects of S3, and of what speaks it, each checked by a digest that the store keeps.

``s3://`` is Amazon's S3, or the store that `AWS_ENDPOINT_URL` names, with boto3's own search for
credentials. ``minio://`` is KFP's scheme for the store that it brings along; its endpoint is the
one that KFP itself takes, and its keys come from KFP's own secret, as `MINIO_ACCESS_KEY` and
`MINIO_SECRET_KEY`, so that they are never sent to another store.

The client is boto3, since it alone of what is well kept shows the checksums that a store keeps, the
code of each refusal and the conditions of a write; obstore shows no checksum, and s3fs is a file
system around the same client. Its own tries are off: they do not cover a body that is cut, and are
counted, not timed. google-api-core's Retry, which Cloud Storage's client uses, goes around it.
"""

import math
import os
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import boto3.session
import botocore.session
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.config import Config
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError
from google.api_core.exceptions import RetryError
from google.api_core.retry import Retry

from components.shared.storage.digests import sha256_of
from components.shared.storage.downloads import reason, shown
from components.shared.storage.objects import GoneError, Stored, split_uri
from components.shared.storage.proxies import check_no_socks
from components.shared.storage.retries import PASSING
from components.shared.storage.s3_digests import (
    CHECKSUMS,
    etag_of_parts,
    md5,
    md5_base64,
    md5_etag,
    md5_of,
    md5_of_parts,
)
from components.shared.telling.errors import InputError, nearest, say

UPLOAD_PART = 32 * 2**20
"""Bytes of one request of an upload, at least 5 MiB; a smaller file is one request."""
MOST_PARTS = 10_000
"""S3's limit of parts of an upload."""
WORKERS = 8
"""Parts on their way at a time; the client's connection pool holds ten."""
BUNDLED = "minio-service.kubeflow:9000"
"""KFP's own store, seen from the namespaces of users (KFP's launcher falls back to it as well)."""
BUNDLED_KEYS = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
AMAZON = "https://s3.amazonaws.com"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the service account",
    "minio": "MINIO_ACCESS_KEY and MINIO_SECRET_KEY, in a pod KFP's secret "
    "mlpipeline-minio-artifact",
}
"""Where credentials come from, by scheme, for messages."""
UPLOAD_ID, SHA256 = "upload-id", "sha256"
"""Metadata of an object of ours: which upload made it, and the digest of its content."""
DAMAGED = "what arrived is not what was sent; run it again"
LOADER = create_loader()
PASSING_CODES = frozenset({"RequestTimeout", "SlowDown", "ConditionalRequestConflict"})
"""Errors that another try may fix; S3 gives some of it another status, 400 or 409."""
REFUSED_CODES = frozenset({"ExpiredToken", "InvalidToken", "TokenRefreshRequired"})
"""Refusals of credentials with status 400."""
ALWAYS = {
    "list_objects_v2": "Name",
    "create_multipart_upload": "UploadId",
    "complete_multipart_upload": "ETag",
}
"""Fields that every answer has; one that was cut at its beginning is read as an empty one."""
DAMAGED_CODES = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"})
CREDENTIAL_ERRORS = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.InvalidConfigError,
)


def _passing(error: Exception) -> bool:
    if isinstance(error, boto.ClientError):
        return _status(error) in PASSING or _code(error) in PASSING_CODES
    lost = (
        boto.HTTPClientError,
        boto.ConnectionError,
        boto.IncompleteReadError,
        ResponseParserError,  # of an answer that was cut
    )
    return isinstance(error, lost) and not isinstance(error, boto.SSLError)


RETRY = Retry(predicate=_passing, initial=1.0, maximum=60.0, multiplier=2.0, timeout=120.0)
"""Each request is tried again by itself, with growing waits."""


def has_credentials(scheme: str) -> bool:
    """Return whether there are credentials for a scheme; whether they are good only S3 knows."""
    if scheme == "minio":
        return all(os.environ.get(name) for name in BUNDLED_KEYS)
    return _session().get_credentials() is not None


def _session() -> boto3.session.Session:
    """Return a new session, which looks for credentials anew, without reading S3's model again."""
    core = botocore.session.get_session()
    core.register_component("data_loader", LOADER)
    return boto3.session.Session(botocore_session=core)


def client(scheme: str) -> Any:
    """Return boto3's client for ``s3`` or ``minio``: with the credentials found, or without any."""
    options: dict[str, Any] = {
        "retries": {"total_max_attempts": 1},
        "connect_timeout": 10,
        "read_timeout": 60,
        # Digests that every store understands go along instead: Content-MD5, and metadata.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    endpoint = _endpoint(scheme)
    check_no_socks(endpoint or AMAZON, f"{scheme}://")
    if endpoint:
        # A name such as <bucket>.minio-service does not resolve.
        options["s3"] = {"addressing_style": "path"}
    if not has_credentials(scheme):
        say(f"{scheme}://: note: no credentials found, trying without")
        options["signature_version"] = UNSIGNED
    given: dict[str, Any] = {}
    if scheme == "minio":
        access, secret = (os.environ.get(name) for name in BUNDLED_KEYS)
        given = {
            "aws_access_key_id": access,
            "aws_secret_access_key": secret,
            "region_name": "us-east-1",
        }
    return _session().client("s3", endpoint_url=endpoint, config=Config(**options), **given)


def _endpoint(scheme: str) -> str | None:
    """Return the address of the store, None for Amazon's."""
    if scheme == "minio":
        # As KFP's launcher does: Kubernetes names the services of a pod's own namespace so.
        host, port = (os.environ.get(f"MINIO_SERVICE_SERVICE_{part}") for part in ("HOST", "PORT"))
        if not (host and port):
            return f"http://{BUNDLED}"
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    name = next((name for name in ENDPOINTS if os.environ.get(name)), "")
    if not name:
        return None
    endpoint = os.environ[name]
    if not re.fullmatch(r"https?://[^/?#@\s]+/?", endpoint):
        # The value is not shown, since it may hold a password.
        raise InputError(f"{name}: is not an address; expected http(s)://<host>[:<port>]")
    return endpoint


class Bucket:
    """A bucket of S3; see `objects.Bucket`."""

    def __init__(self, scheme: str, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{1,255}", name):
            raise InputError(
                f"{scheme}://…: the name of the bucket has letters that none may have; expected "
                f"{scheme}://bucket/object"
            )
        self.uri = f"{scheme}://{name}"
        self._name = name
        self._client = client(scheme)

    def errors(self, where: str) -> AbstractContextManager[None]:
        """See `objects.Bucket`."""
        return errors(where)

    def list(self, prefix: str) -> Iterator[Stored]:
        """See `objects.Bucket`."""
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", Prefix=prefix, **token)
            for item in page.get("Contents", []):
                yield Stored(item["Key"], item["ETag"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def source(self, name: str) -> "_Version":
        """See `objects.Bucket`."""
        facts = self._facts(name)
        if facts is None:
            raise InputError(
                f"{self.uri}/{name}: no such object{self._nearest(name)}; expected "
                f"{_scheme(self.uri)}://bucket/object"
            )
        encoding = facts.get("ContentEncoding", "").removeprefix("aws-chunked").strip(", ")
        if encoding not in ("", "identity"):
            raise InputError(f"{self.uri}/{name}: is stored as {encoding!r}; store it uncompressed")
        return _Version(self, name, facts)

    def read(self, name: str, path: Path) -> None:
        """See `objects.Bucket`."""
        facts = self._facts(name)
        if facts is None:
            raise FileNotFoundError(name)
        version = _Version(self, name, facts)
        with path.open("wb") as file:
            for start in range(0, version.size, UPLOAD_PART):
                version.fetch(file, start, min(UPLOAD_PART, version.size - start))

    def upload(self, path: Path, name: str) -> Stored | None:
        """See `objects.Bucket`; the digests are the MD5 of each request and the ETag."""
        upload_id = uuid.uuid4().hex
        metadata = {UPLOAD_ID: upload_id, SHA256: sha256_of(path)}
        # A store that does not know If-None-Match (some do not) would replace what is there.
        there = self._facts(name)
        if there is None:
            send = self._put if path.stat().st_size <= UPLOAD_PART else self._put_parts
            try:
                etag, answer = send(path, name, metadata)
            except boto.ClientError as error:
                if _status(error) != 412 and _code(error) != "NoSuchUpload":
                    raise
                there = self._facts(name)
                if there is None:
                    raise
            else:
                stored = Stored(name, answer["ETag"])
                if md5_etag(answer) not in ("", etag):
                    self.delete(stored)
                    raise InputError(f"{self.uri}/{name}: {DAMAGED}")
                return stored
        # The request was repeated since its answer was lost: the object is this upload's.
        if there["Metadata"].get(UPLOAD_ID) == upload_id:
            return Stored(name, there["ETag"])
        version = _Version(self, name, there)
        if version.size == path.stat().st_size and not version.damage(path):
            return None
        raise InputError(f"{self.uri}/{name}: exists already; give another prefix or remove it")

    def _put(self, path: Path, name: str, metadata: dict[str, str]) -> tuple[str, dict[str, Any]]:
        """Upload a small file; return the ETag it has if that is an MD5, and the answer."""
        body = path.read_bytes()
        answer = self._call(
            "put_object",
            Key=name,
            Body=body,
            Metadata=metadata,
            ContentMD5=md5_base64(body),
            IfNoneMatch="*",
        )
        return md5(body).hex(), answer

    def _put_parts(
        self, path: Path, name: str, metadata: dict[str, str]
    ) -> tuple[str, dict[str, Any]]:
        """Upload a big file in parts, several at a time, as `_put`; leave no part if it fails."""
        size = path.stat().st_size
        part = max(UPLOAD_PART, math.ceil(size / MOST_PARTS))
        upload = self._call("create_multipart_upload", Key=name, Metadata=metadata)["UploadId"]

        def send(number: int) -> tuple[bytes, dict[str, Any]]:
            with path.open("rb") as file:
                file.seek((number - 1) * part)
                body = file.read(part)
            answer = self._call(
                "upload_part",
                Key=name,
                UploadId=upload,
                PartNumber=number,
                Body=body,
                ContentMD5=md5_base64(body),
            )
            return md5(body), {"PartNumber": number, "ETag": answer["ETag"]}

        try:
            with ThreadPoolExecutor(WORKERS) as pool:
                tasks = [pool.submit(send, 1 + i) for i in range(math.ceil(size / part))]
                try:
                    sent = [task.result() for task in tasks]
                finally:
                    pool.shutdown(cancel_futures=True)
            answer = self._call(
                "complete_multipart_upload",
                Key=name,
                UploadId=upload,
                MultipartUpload={"Parts": [told for _, told in sent]},
                IfNoneMatch="*",
            )
        except BaseException:
            self._abort(name, upload)
            raise
        return md5_of_parts([digest for digest, _ in sent]), answer

    def _abort(self, name: str, upload: str) -> None:
        """Throw away the parts of an upload; what led here matters more than a failure of it."""
        try:
            self._call("abort_multipart_upload", Key=name, UploadId=upload)
        except (boto.BotoCoreError, boto.ClientError, RetryError) as error:
            if not (isinstance(error, boto.ClientError) and _status(error) == 404):
                why = f"note: parts of an upload could not be deleted ({type(error).__name__})"
                say(f"{self.uri}/{name}: {why}")

    def delete(self, stored: Stored) -> None:
        """See `objects.Bucket`; S3 deletes by name alone, so it is looked at just before."""
        facts = self._facts(stored.name)
        if facts is not None and facts["ETag"] == stored.version:
            self._call("delete_object", Key=stored.name)

    def _facts(self, name: str, **more: Any) -> dict[str, Any] | None:
        """Return what the store says of an object, None if there is none of this name."""
        try:
            return self._call("head_object", Key=name, ChecksumMode="ENABLED", **more)
        except boto.ClientError as error:
            if _status(error) == 404:
                return None
            raise

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        def ask() -> dict[str, Any]:
            answer = getattr(self._client, operation)(Bucket=self._name, **arguments)
            if ALWAYS.get(operation, "") not in ("", *answer):
                raise boto.IncompleteReadError(actual_bytes=0, expected_bytes=1)
            return answer

        return RETRY(ask)()

    def body(self, name: str, etag: str, version: dict[str, str], start: int, size: int) -> bytes:
        """Return bytes of one version of an object; a body that is cut off is requested again."""

        def get() -> bytes:
            answer = self._client.get_object(
                Bucket=self._name,
                Key=name,
                IfMatch=etag,
                Range=f"bytes={start}-{start + size - 1}",
                **version,
            )
            body = answer["Body"].read()
            if len(body) != size:
                raise boto.IncompleteReadError(actual_bytes=len(body), expected_bytes=size)
            return body

        return RETRY(get)()

    def part_size(self, name: str, facts: Mapping[str, Any]) -> int:
        """Return the size of the parts an object was uploaded in, 0 if they are not all alike."""
        parts = int(facts["ETag"].strip('"').rpartition("-")[2])
        first = (self._facts(name, PartNumber=1) or {}).get("ContentLength", 0)
        last = (self._facts(name, PartNumber=parts) or {}).get("ContentLength", 0)
        return first if first * (parts - 1) + last == facts["ContentLength"] else 0

    def _nearest(self, name: str) -> str:
        """Return the name in the same folder most like ``name``; a missing bucket raises."""
        folder = name[: name.rfind("/") + 1]
        page = self._call("list_objects_v2", Prefix=folder, Delimiter="/", MaxKeys=1000)
        return nearest(name, [item["Key"] for item in page.get("Contents", [])])


class _Version:
    """One version of an object; see `objects.Source`."""

    def __init__(self, bucket: Bucket, name: str, facts: dict[str, Any]) -> None:
        self.uri = f"{bucket.uri}/{name}"
        self.size = int(facts["ContentLength"])
        self.version = {"etag": facts["ETag"], "id": facts.get("VersionId", "")}
        self._bucket, self._name, self._facts = bucket, name, facts

    def fetch(self, file: BinaryIO, start: int, size: int) -> None:
        """See `objects.Source`."""
        version = {"VersionId": self.version["id"]} if self.version["id"] else {}
        file.write(self._bucket.body(self._name, self.version["etag"], version, start, size))

    def damage(self, path: Path) -> str:
        """See `objects.Source`."""
        name, kept, compute = self._digest()
        found = compute(path)
        return "" if found == kept else f"{name} of {path.name} is {found}, the bucket says {kept}"

    def _digest(self) -> tuple[str, str, Callable[[Path], str]]:
        """Return a digest that the store keeps: its name, its value and what computes it."""
        ours = self._facts["Metadata"].get(SHA256, "")
        if re.fullmatch("[0-9a-f]{64}", ours):
            return "sha256", ours, sha256_of
        for name, compute in CHECKSUMS.items():
            value = self._facts.get(f"Checksum{name}", "")
            if value and "-" not in value:  # with one it is of the parts' checksums
                return name, value, compute
        etag = md5_etag(self._facts)
        if etag and "-" not in etag:
            return "MD5", etag, md5_of
        if etag and (part := self._bucket.part_size(self._name, self._facts)):
            return "MD5 of parts", etag, partial(etag_of_parts, part=part)
        say(
            f"{self.uri}: WARNING: the store keeps no digest of it that can be checked, only its "
            f"size is; #sha256=… at the end of the URI checks it"
        )
        return "size", str(self.size), lambda path: str(path.stat().st_size)


@contextmanager
def errors(where: str) -> Iterator[None]:
    """Turn what the client library raises into one line, without its own text."""
    scheme, bucket = _scheme(where), split_uri(where)[0]
    try:
        yield
    except boto.ClientError as error:
        raise _told(error, where, scheme, bucket) from None
    except CREDENTIAL_ERRORS as error:
        raise InputError(
            f"{shown(where)}: credentials cannot be used ({type(error).__name__}); check "
            f"{KEYS[scheme]}"
        ) from None
    except RetryError as error:
        cause = error.cause
        why = (
            f"HTTP {_status(cause)}"
            if isinstance(cause, boto.ClientError)
            else f"cannot be reached ({reason(cause or error)})"
        )
        raise InputError(f"{shown(where)}: {why}, gave up after {RETRY.timeout:g} s") from None
    except boto.BotoCoreError as error:
        raise InputError(f"{shown(where)}: cannot be reached ({reason(error)})") from None


def _told(error: boto.ClientError, where: str, scheme: str, bucket: str) -> InputError:
    status, code = _status(error), _code(error)
    if code in DAMAGED_CODES:
        return InputError(f"{shown(where)}: {DAMAGED}")
    if status == 404:
        return GoneError(
            f"{shown(where)}: no bucket '{bucket}', or no such object; expected "
            f"{scheme}://bucket/object"
        )
    if status == 412:
        return GoneError(f"{shown(where)}: was replaced during the transfer; run it again")
    if status in (401, 403) or code in REFUSED_CODES:
        return InputError(
            f"{shown(where)}: access denied; check the credentials ({KEYS[scheme]}) and the "
            "bucket's permissions"
        )
    return InputError(f"{shown(where)}: HTTP {status}, {code}")


def _scheme(where: str) -> str:
    return where.partition("://")[0].split()[-1].lower()


def _status(error: boto.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: boto.ClientError) -> str:
    """Return S3's word for an error, without anything that a server could put in besides."""
    return re.sub("[^A-Za-z0-9]", "", str(error.response.get("Error", {}).get("Code", "")))[:64]
