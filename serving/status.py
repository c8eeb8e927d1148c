"""TensorFlow's errors as the server's one currency: each carries a code of gRPC's and upstream's text.

`grpc_api` sends the code as it is, `rest_api` by its table; both send the text.
"""

from __future__ import annotations

from typing import TypeAlias

import tensorflow as tf
from tensorflow.core.protobuf import error_codes_pb2

Error: TypeAlias = tf.errors.OpError


def text(error: Error) -> str:
    """ "NOT_FOUND: message", as absl::Status prints itself."""
    return f"{error_codes_pb2.Code.Name(error.error_code)}: {error.message}"


def invalid_argument(message: str) -> Error:
    return tf.errors.InvalidArgumentError(None, None, message)


def not_found(message: str) -> Error:
    return tf.errors.NotFoundError(None, None, message)


def failed_precondition(message: str) -> Error:
    return tf.errors.FailedPreconditionError(None, None, message)


def unimplemented(message: str) -> Error:
    return tf.errors.UnimplementedError(None, None, message)


def deadline_exceeded() -> Error:
    """In the runtime's own words."""
    return tf.errors.DeadlineExceededError(None, None, "Timed out waiting for notification")


def resource_exhausted(message: str) -> Error:
    return tf.errors.ResourceExhaustedError(None, None, message)


def unavailable(message: str) -> Error:
    return tf.errors.UnavailableError(None, None, message)


def internal(message: str) -> Error:
    return tf.errors.InternalError(None, None, message)


def unknown(message: str) -> Error:
    return tf.errors.UnknownError(None, None, message)
