"""Configuration files in protobuf's text format."""

from __future__ import annotations

import pytest
import tensorflow as tf
from tensorflow_serving.config import model_server_config_pb2

from serving import config_pb2, text_config

BATCHING = """
# As TensorFlow Serving's guide has it.
max_batch_size { value: 128 }
batch_timeout_micros: { value: 0 }
max_enqueued_batches { value: 1000000 }
num_batch_threads { value: 8 }
thread_pool_name { value: 'pool' }
allowed_batch_sizes: 64
allowed_batch_sizes: [128]
pad_variable_length_inputs: true
enable_large_batch_splitting { value: true }
max_execution_batch_size { value: 128 }
"""


def test_every_batching_parameter_is_read(tmp_path):
    (tmp_path / "batching").write_text(BATCHING)
    parameters = text_config.read(str(tmp_path / "batching"), config_pb2.BatchingParameters)
    assert parameters.HasField("batch_timeout_micros")  # 0, but given
    assert parameters == config_pb2.BatchingParameters(
        max_batch_size={"value": 128},
        batch_timeout_micros={"value": 0},
        max_enqueued_batches={"value": 1000000},
        num_batch_threads={"value": 8},
        thread_pool_name={"value": "pool"},
        allowed_batch_sizes=[64, 128],
        pad_variable_length_inputs=True,
        enable_large_batch_splitting={"value": True},
        max_execution_batch_size={"value": 128},
    )


def test_ssl_and_monitoring_files_are_read(tmp_path):
    (tmp_path / "ssl").write_text(
        'server_key: "-----BEGIN\\nkey"\nserver_cert: "cert" custom_ca: "ca" client_verify: true'
    )
    ssl = text_config.read(str(tmp_path / "ssl"), config_pb2.SSLConfig)
    assert ssl == config_pb2.SSLConfig(
        server_key="-----BEGIN\nkey", server_cert="cert", custom_ca="ca", client_verify=True
    )
    (tmp_path / "monitoring").write_text('prometheus_config { enable: true, path: "/metrics" }')
    monitoring = text_config.read(str(tmp_path / "monitoring"), config_pb2.MonitoringConfig)
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/metrics"


def test_an_empty_file_is_an_empty_message(tmp_path):
    (tmp_path / "empty").write_text("")
    assert not text_config.read(str(tmp_path / "empty"), config_pb2.SSLConfig).ListFields()


@pytest.mark.parametrize(
    "content",
    [b"max_batch_size: 128", b"no_such_field: 1", b"max_batch_size {", b"\xff\xfe", b"{"],
    ids=["a wrapped value bare", "unknown field", "cut off", "not UTF-8", "JSON"],
)
def test_what_does_not_parse_is_reported_as_upstream_does(tmp_path, capfd, content):
    path = tmp_path / "config"
    path.write_bytes(content)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        text_config.read(str(path), config_pb2.BatchingParameters)
    assert caught.value.message == f"Invalid protobuf file: '{path}'"
    assert "Error parsing text-format tensorflow.serving.BatchingParameters: " in capfd.readouterr().err


def test_the_report_says_line_and_column(tmp_path, capfd):
    path = tmp_path / "models"
    path.write_text("model_config_list {\n  oops {}\n}\n")
    with pytest.raises(tf.errors.InvalidArgumentError):
        text_config.read(str(path), model_server_config_pb2.ModelServerConfig)
    assert (
        "Error parsing text-format tensorflow.serving.ModelServerConfig: 2:3: " in capfd.readouterr().err
    )


def test_tensorflow_s_own_messages_have_their_own_names(tmp_path, capfd):
    path = tmp_path / "session"
    path.write_text("no_such_field: 1")
    with pytest.raises(tf.errors.InvalidArgumentError):
        text_config.read(str(path), tf.compat.v1.ConfigProto)
    assert "Error parsing text-format tensorflow.ConfigProto: 1:1: " in capfd.readouterr().err


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(tf.errors.NotFoundError, match="No such file or directory"):
        text_config.read(str(tmp_path / "none"), config_pb2.SSLConfig)
