"""Memory is returned to the system when a model is unloaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import saved_models
import tensorflow as tf

MEGABYTE = 2**20

# In a process of its own, as a server does it.
LOAD_AND_UNLOAD = """
import json, sys
import numpy as np
import tensorflow as tf
from serving import memory
from serving.servable import Servable
memory.prepare()
memory.settle()

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

start, loaded, unloaded = resident(), [], []
for _ in range(5):
    model = Servable(sys.argv[1], ["serve"], tf.compat.v1.ConfigProto())
    definition = model.signature_defs["serving_default"]
    feeds = {definition.inputs["x"].name: np.ones((8, 1024), np.float32)}
    (y,) = model.run(feeds, [definition.outputs["y"].name], None)
    loaded.append(resident() - start)
    model.close()
    del model
    memory.release()
    unloaded.append(resident() - start)
print(json.dumps({"loaded": loaded, "unloaded": unloaded}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 100 MB of weights, in large variables and small ones."""

    class Large(tf.Module):
        def __init__(self) -> None:
            self.weights = [tf.Variable(tf.ones([1024, 1024])) for _ in range(20)]
            self.biases = [tf.Variable(tf.ones([64, 1024])) for _ in range(80)]

        @tf.function(input_signature=[tf.TensorSpec([None, 1024], tf.float32, "x")])
        def default(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            for weights in self.weights:
                x = tf.matmul(x, weights) / 1024
            return {"y": x + tf.add_n(self.biases)[0]}

    model = Large()
    path = tmp_path_factory.mktemp("large") / "1"
    tf.saved_model.save(model, str(path), signatures=model.default)
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_returned_after_unload(large: Path) -> None:
    command = [sys.executable, "-c", LOAD_AND_UNLOAD, str(large)]
    done = subprocess.run(command, cwd=saved_models.ROOT, stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert min(found["loaded"]) > 100 * MEGABYTE
    # TensorFlow itself takes some 20 MB with the first model.
    assert max(found["unloaded"]) < 50 * MEGABYTE
