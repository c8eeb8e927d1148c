"""Configuration files in protobuf's text format, read as tensorflow_model_server reads them."""

from __future__ import annotations

import re
import sys
from typing import TypeVar

import tensorflow as tf
from google.protobuf import message, text_format

from serving import status

_Message = TypeVar("_Message", bound=message.Message)


def read(path: str, message_class: type[_Message]) -> _Message:
    """Reads a message from the text file `path`.

    Raises:
      status.Error: NOT_FOUND and the like from the file system; INVALID_ARGUMENT when the text is no
        such message. Where and why is printed to stderr: the C++ parser does, and tools look for it.
    """
    with tf.io.gfile.GFile(path, "rb") as file:
        text = file.read()
    try:
        return text_format.Parse(text, message_class())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        where = re.sub(r"^(\d+:\d+) : ", r"\1: ", str(error))
        print(f"Error parsing text-format {_upstream_name(message_class)}: {where}", file=sys.stderr)
        raise status.invalid_argument(f"Invalid protobuf file: '{path}'") from error


def _upstream_name(message_class: type[message.Message]) -> str:
    """`atelier.config` stands in for messages that upstream keeps to itself."""
    return message_class.DESCRIPTOR.full_name.replace("atelier.config.", "tensorflow.serving.")
