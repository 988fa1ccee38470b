"""Opens buckets of object stores: one interface over the clients of Cloud Storage and of S3."""

import os

from components.shared.storage.downloads import shown
from components.shared.storage.objects import Bucket, split_uri
from components.shared.storage.proxies import REQUESTS, check_proxy

SCHEMES = ("gs", "s3", "minio")
GS = "https://storage.googleapis.com"
FORMS = "gs://bucket/prefix, s3://bucket/prefix, minio://bucket/prefix"


def open_bucket(uri: str) -> Bucket:
    """Return the bucket of a URI of one of the SCHEMES, or of a text that ends in one.

    Nothing is asked of it yet; credentials or an endpoint that cannot be used are refused.
    """
    scheme, name = uri.partition("://")[0].split()[-1].lower(), split_uri(uri)[0]
    # The client libraries take seconds to import; only the one that is needed is.
    if scheme == "gs":
        from components.shared.storage import gs as storage_gs

        check_proxy(os.environ.get("STORAGE_EMULATOR_HOST") or GS, shown(uri), REQUESTS)
        with storage_gs.errors(uri):
            return storage_gs.Bucket(name)
    from components.shared.storage import s3 as storage_s3

    with storage_s3.errors(uri):
        return storage_s3.Bucket(scheme, name)


def may_write(scheme: str) -> bool:
    """Return whether this process has credentials to write to the buckets of a scheme."""
    if scheme == "gs":
        return True  # only the metadata server knows, and it answers for every pod
    from components.shared.storage import s3 as storage_s3

    with storage_s3.errors(f"{scheme}://bucket"):
        return storage_s3.has_credentials(scheme)
