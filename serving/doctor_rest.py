"""A server behind TensorFlow Serving's REST API, for the doctor: KServe's v1 protocol is the same paths."""

from __future__ import annotations

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from serving import errors, golden, inputs, outputs, tensors

# HTTP status -> exception; others are the server's failures.
_STATUSES: dict[int, type[errors.ServingError]] = {
    400: errors.InvalidInput,
    401: errors.AccessDenied,
    403: errors.AccessDenied,
    404: errors.ModelNotFound,
    429: errors.Overloaded,
    501: errors.NotSupported,
    503: errors.ServerUnavailable,
    504: errors.DeadlineExceeded,
}


@dataclass(frozen=True)
class RestServer:
    """`doctor.Server` by REST.

    JSON has no types: an output that comes back as numbers is read as the type that the golden answer has,
    so that of types only "text instead of numbers" and the like is seen.
    """

    url: str  # http://host:port, with a prefix if a gateway wants one
    headers: Mapping[str, str]
    timeout: float
    tls: ssl.SSLContext | None = None  # for https; None: the system's roots

    def versions(self, model: str) -> dict[int, str]:
        states = {}
        for version in self._get(f"/v1/models/{_quoted(model)}").get("model_version_status", []):
            status = version.get("status", {})
            failed = status.get("error_code", "OK") != "OK"
            reason = f" ({status.get('error_code')}: {status.get('error_message')})" if failed else ""
            states[int(version["version"])] = version["state"] + reason
        return states

    def signatures(self, model: str, version: int) -> set[str]:
        answer = self._get(f"/v1/models/{_quoted(model)}/versions/{version}/metadata")
        return set(answer["metadata"]["signature_def"]["signature_def"])

    def predict(self, model: str, version: int, request: golden.Request) -> dict[str, np.ndarray]:
        body = {
            "signature_name": request.signature,
            # Every string as {"b64": ...}, which is its bytes and nothing else.
            "inputs": {key: outputs.jsonable(array, all_b64=True) for key, array in request.inputs.items()},
        }
        path = f"/v1/models/{_quoted(model)}/versions/{version}:predict"
        values = self._get(path, json.dumps(body).encode())["outputs"]
        if not isinstance(values, dict):  # the only output stands alone
            values = {next(iter(request.outputs), "output"): values}
        return {name: _array(value, request.outputs.get(name)) for name, value in values.items()}

    def _get(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """GET, or POST with a body; the answer's JSON object."""
        url = self.url.rstrip("/") + path
        try:
            asked = urllib.request.Request(url, body, {"Content-Type": "application/json", **self.headers})
            with urllib.request.urlopen(asked, timeout=self.timeout, context=self.tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            try:
                text = json.loads(text)["error"]
            except (ValueError, KeyError, TypeError):
                text = f"HTTP {error.code} {error.reason}"
            raise _STATUSES.get(error.code, errors.ServerError)(text) from None
        except TimeoutError:
            raise errors.DeadlineExceeded(f"{url}: no answer within {self.timeout:g} s") from None
        except http.client.HTTPException as error:  # with what came instead, of any bytes
            raise errors.ServerUnavailable(f"{url}: no HTTP server: {type(error).__name__}") from None
        except OSError as error:
            raise errors.ServerUnavailable(f"{url}: {getattr(error, 'reason', error)}") from None
        except ValueError as error:
            raise errors.ServerError(f"{url}: no JSON: {error}") from None


def _quoted(model: str) -> str:
    return urllib.parse.quote(model, safe="")


def _array(value: Any, expected: np.ndarray | None) -> np.ndarray:
    """Of the expected type if the values can be."""
    plain = inputs.decoded(value)
    if expected is not None:
        try:
            return tensors.to_array(plain, "string" if expected.dtype == object else expected.dtype)
        except ValueError:
            pass
    return tensors.to_array(plain)
