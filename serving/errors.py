"""Every exception of the client, and the one table that turns a gRPC status into one.

    ServingError(Exception)                       catch this to catch them all
    ├── InvalidInput        (ValueError)          wrong name, dtype, shape, value or output name
    ├── ModelNotFound       (LookupError)         no such model, version or label is served
    ├── SignatureNotFound   (LookupError)         the model has no such signature
    ├── ServerUnavailable   (ConnectionError)     no connection, or the server is going away
    ├── DeadlineExceeded    (TimeoutError)        no answer within the timeout
    ├── Overloaded          (RuntimeError)        the server lacks resources now; try later
    ├── NotSupported        (NotImplementedError) the server lacks this method
    ├── AccessDenied        (PermissionError)     credentials are missing or not enough
    ├── ServerError         (RuntimeError)        the server failed at a well-formed request
    ├── ClientClosed        (RuntimeError)        this client was closed, or belongs to another process
    └── ServerNotStarted    (RuntimeError)        `serving.launch`: the server died or was not ready

Each is also the built-in in brackets, so code that does not know this package can still handle it.
`code` is the gRPC status (None when the client found the fault before it sent anything).
"""

from __future__ import annotations

import grpc


class ServingError(Exception):
    """Base of all exceptions here."""

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = code


class InvalidInput(ServingError, ValueError):
    """The request does not fit the signature.

    Where one input is at fault, `input` is its name, `expected` what the signature says, e.g.
    "float32 [?, 3]", and `given` the same of what was handed in; else they are None.
    """

    def __init__(
        self,
        message: str,
        code: grpc.StatusCode | None = None,
        *,
        input: str | None = None,
        expected: str | None = None,
        given: str | None = None,
    ) -> None:
        super().__init__(message, code)
        self.input, self.expected, self.given = input, expected, given


class ModelNotFound(ServingError, LookupError):
    """The server has no such model, version or label loaded."""


class SignatureNotFound(ServingError, LookupError):
    """The model has no such signature."""


class ServerUnavailable(ServingError, ConnectionError):
    """The server cannot be reached, or closed the connection."""


class DeadlineExceeded(ServingError, TimeoutError):
    """The timeout passed before the answer came."""


class Overloaded(ServingError, RuntimeError):
    """The server has no room for the request now."""


class NotSupported(ServingError, NotImplementedError):
    """The server does not have the method."""


class AccessDenied(ServingError, PermissionError):
    """The server wants other credentials."""


class ServerError(ServingError, RuntimeError):
    """The server failed."""


class ClientClosed(ServingError, RuntimeError):
    """The client was closed, or is used in another process or event loop than its own."""


class ServerNotStarted(ServingError, RuntimeError):
    """A launched server died or was not ready in time; the message ends with its log's tail."""


# Status code, what the text must hold, exception. First match wins; the texts are TensorFlow Serving's and
# gRPC's, which use one code for faults that a caller handles differently.
_TABLE: tuple[tuple[grpc.StatusCode, str, type[ServingError]], ...] = (
    (grpc.StatusCode.NOT_FOUND, "", ModelNotFound),
    (grpc.StatusCode.INVALID_ARGUMENT, "Unrecognized servable version label", ModelNotFound),
    (grpc.StatusCode.INVALID_ARGUMENT, "No signature was found with the name", SignatureNotFound),
    (grpc.StatusCode.INVALID_ARGUMENT, "", InvalidInput),
    (grpc.StatusCode.OUT_OF_RANGE, "", InvalidInput),
    (grpc.StatusCode.FAILED_PRECONDITION, "Serving signature key", SignatureNotFound),
    (grpc.StatusCode.UNAVAILABLE, "", ServerUnavailable),
    # Without more words: what gRPC does to calls that arrive in the moment in which a server stops.
    (grpc.StatusCode.CANCELLED, "CANCELLED", ServerUnavailable),
    (grpc.StatusCode.DEADLINE_EXCEEDED, "", DeadlineExceeded),
    # No later attempt will do better.
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "essage larger than max", InvalidInput),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "", Overloaded),
    (grpc.StatusCode.UNIMPLEMENTED, "", NotSupported),
    (grpc.StatusCode.UNAUTHENTICATED, "", AccessDenied),
    (grpc.StatusCode.PERMISSION_DENIED, "", AccessDenied),
)


def from_rpc_error(error: grpc.RpcError) -> ServingError:
    """The typed exception for a failed call (statuses outside the table give ServerError)."""
    code, details = error.code(), error.details() or ""
    for status, text, exception in _TABLE:
        if code is status and text in details:
            return exception(details or code.name, code)
    return ServerError(f"{code.name}: {details}", code)
