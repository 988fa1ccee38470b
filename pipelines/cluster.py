"""The KFP API of a cluster: how to reach it, and in one line why it does not answer."""

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import kfp
from kfp_server_api import ApiException, V2beta1GetHealthzResponse, V2beta1Pipeline, V2beta1Run
from urllib3.exceptions import HTTPError

from components.shared.storage.downloads import shown
from components.shared.telling.errors import InputError
from components.shared.telling.kfp_run import Run

API_ERRORS = (ApiException, HTTPError)
"""Errors of a call: an answer that is an error, or no answer at all."""
TIMEOUT = (10, 60)
"""Seconds to connect and to wait for an answer; the client itself would wait forever."""
OTHER_PAGE = "answers, but not as Kubeflow Pipelines does (a sign-in page, perhaps)"
HTML = re.compile(r"\s*<(!doctype|html)", re.IGNORECASE)
"""A page for people: of signing in, or of the UI itself."""
SIGN_IN = (
    "sign in with `gcloud auth application-default login`, name the client of the "
    "Identity-Aware Proxy in KF_PIPELINES_IAP_OAUTH2_CLIENT_ID, or forward the port: "
    "kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80, and HOST=http://localhost:8080"
)


class Client(kfp.Client):
    """KFP's client, but for how it asks whether the API is there."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> V2beta1GetHealthzResponse:
        """Ask once; KFP's own asks five times and logs a traceback each time."""
        return self._healthz_api.healthz_service_get_healthz(_request_timeout=TIMEOUT)

    def pipeline_id(self, name: str, namespace: str = "") -> str | None:
        """Return the id of an uploaded pipeline; None where there is none of this name."""
        answer = self._pipelines_api.pipeline_service_list_pipelines(
            namespace=namespace, filter=_of_name(name)
        )
        return next((one.pipeline_id for one in answer.pipelines or []), None)

    def create_pipeline(self, name: str, description: str, namespace: str = "") -> str | None:
        """Make a pipeline without versions, and return its id.

        KFP's own `upload_pipeline` makes one with a version that bears the pipeline's name.
        """
        made = self._pipelines_api.pipeline_service_create_pipeline(
            V2beta1Pipeline(
                name=name, display_name=name, description=description, namespace=namespace or None
            )
        )
        return made.pipeline_id

    def version_id(self, pipeline_id: str, name: str) -> str | None:
        """Return the id of a version of a pipeline; None where there is none of this name."""
        answer = self.list_pipeline_versions(pipeline_id, filter=_of_name(name))
        return next((one.pipeline_version_id for one in answer.pipeline_versions or []), None)

    def told(self, run: V2beta1Run) -> Run:
        """Return a run with what its nodes tell."""
        return Run(self.runs.api_client.sanitize_for_serialization(run))

    def page(self, path: str, query: Mapping[str, str]) -> str | None:
        """Return a page of the UI's server, which answers on the same host; None if it does not."""
        try:
            answer = self.runs.api_client.call_api(
                path,
                "GET",
                query_params=list(query.items()),
                auth_settings=["Bearer"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=TIMEOUT,
            )
        except API_ERRORS:
            return None
        text = answer.data.decode(errors="replace")
        return None if HTML.match(text) else text


def _of_name(name: str) -> str:
    wanted = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [wanted]})


def bare_host(host: str) -> str:
    """Return the address of the API from what a person may have copied from the browser."""
    if not re.match(r"https?://[^/]", host):
        raise InputError(f"host '{host}': expected https://… or http://…, the address of KFP's UI")
    return host.partition("#")[0].rstrip("/")


def connect(host: str) -> Client:
    """Return a client of the API at ``host``, signed in where that needs nobody to be asked.

    Raises:
        ApiException, HTTPError: see `API_ERRORS`.
    """
    # urllib3 would tell each try of a connection; whoever gives up tells it once.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Client(host=host)


@contextmanager
def one_line_api_errors(host: str) -> Iterator[None]:
    """Turn what a call to the API raises into an InputError."""
    try:
        yield
    except API_ERRORS as error:
        raise InputError(reason(host, error)) from None


def reason(host: str, error: ApiException | HTTPError) -> str:
    """Say in one line why the API at ``host`` did not do what it was asked, and what to do."""
    told = f"{shown(host)}: {cause(error)}"
    if not isinstance(error, ApiException):
        return f"{told}; check HOST, or whether the port is still forwarded"
    if error.status in (401, 403):
        return f"{told}; {SIGN_IN}"
    if error.status == 404:
        return f"{told}; HOST is the address of KFP's UI, without what follows '/#'"
    return told


def cause(error: ApiException | HTTPError) -> str:
    """Return what the API, a proxy before it, or the connection says of an error."""
    if not isinstance(error, ApiException):
        text = str(getattr(error, "reason", None) or error)
        return f"cannot be reached ({text.rpartition('): ')[2]})"
    try:
        said = json.loads(error.body)["message"]
    except (TypeError, ValueError, KeyError):  # a page of HTML
        said = error.reason or ""
    return f"answered {error.status}: {said}"
