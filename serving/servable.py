"""One loaded SavedModel and running it: no lifecycle, no batching, no wire format."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow.python.client import pywrap_tf_session

from serving import status, workers
from serving.interrupts import Interrupts

# A signature of fewer operations runs in the thread that asks: handing it to TensorFlow's pool and back takes
# longer (40 us of the 45 that three floats take) than the pool's cores could save.
_TINY = 20
_IN_THIS_THREAD = tf.compat.v1.RunOptions(inter_op_thread_pool=-1).SerializeToString()
_LOOPS = ("NextIteration", "RefNextIteration", "While", "StatelessWhile")
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


class Runner(Protocol):
    """What runs signatures: a `Servable`, or something that wraps one (batching)."""

    @property
    def signature_defs(self) -> Mapping[str, meta_graph_pb2.SignatureDef]: ...

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None
    ) -> list[np.ndarray]:
        """Feeds and fetches tensors of the signatures by their names in the graph ("x:0").

        Args:
          timeout: seconds, None = none.
        Raises:
          status.Error: the runtime's; DEADLINE_EXCEEDED after `timeout` seconds.
        """

    def close(self) -> None:
        """Frees the model; nothing may run any more."""


class Servable:
    """A SavedModel in a session of its own, as the stock server holds it.

    Loaded by the session loader and run through TF_SessionRun itself: shapes are not checked
    against the signature there, and messages are the runtime's own, both as upstream.
    """

    def __init__(self, path: str, tags: Sequence[str], session_config: tf.compat.v1.ConfigProto):
        """Loads `path` and runs its initializers.

        Raises:
          status.Error: no SavedModel there, it is damaged, or lacks the tags.
        """
        if not tf.saved_model.contains_saved_model(path):
            raise status.not_found(
                f"Could not find SavedModel .pb or .pbtxt at supplied export directory path: {path}",
            )
        self._graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=self._graph, config=session_config)
        try:
            with self._graph.as_default():
                meta_graph: meta_graph_pb2.MetaGraphDef = tf.compat.v1.saved_model.load(
                    self._session, list(tags), path
                )
        except OSError as error:  # the Python loader's word for a file it cannot parse
            self.close()
            raise tf.errors.DataLossError(
                None, None, f"Can't parse {path}/saved_model.pb as binary proto"
            ) from error
        except RuntimeError as error:  # the Python loader's word for missing tags
            self.close()
            raise status.not_found(
                f"Could not find meta graph def matching supplied tags: {{ {' '.join(tags)} }}. To "
                "inspect available tag-sets in the SavedModel, please use the SavedModel CLI: "
                "`saved_model_cli`",
            ) from error
        except BaseException:
            self.close()
            raise
        self.signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = dict(meta_graph.signature_def)
        self._handles = {
            info.name: self._graph.get_tensor_by_name(info.name)._as_tf_output()
            for definition in self.signature_defs.values()
            for info in (*definition.inputs.values(), *definition.outputs.values())
            # Sparse inputs have no one tensor; initializers are operations.
            if ":" in info.name
        }
        operations = _Operations(meta_graph.graph_def)
        outputs = {
            info.name: info.name.partition(":")[0]
            for definition in self.signature_defs.values()
            for info in definition.outputs.values()
        }
        self._tiny = frozenset(name for name, node in outputs.items() if operations.behind(node) < _TINY)
        # What loops may take minutes: it can be stopped. A signature's outputs have one operation, mostly.
        loop = {node for node in set(outputs.values()) if operations.loops(node)}
        self._long = frozenset(name for name, node in outputs.items() if node in loop) - self._tiny
        self._interrupts = Interrupts(self._session) if self._long else None

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], timeout: float | None
    ) -> list[np.ndarray]:
        """Feeds and fetches tensors of a signature by their names in the graph.

        Raises:
          status.Error: the runtime's; DeadlineExceededError after `timeout` seconds; CancelledError soon
            after the client has given up, where the signature has a loop.
        """
        if self._interrupts is None or self._long.isdisjoint(fetches) or set(fetches) - self._handles.keys():
            return self._run(feeds, fetches, timeout)
        run = None
        try:
            # Without a client, too: TensorFlow prepares a combination of operations when it first runs, and
            # that is to be in the warm-up.
            with self._interrupts.watching(fetches, workers.client()) as (run, more, beside):
                return self._run(feeds, fetches, timeout, more, beside)
        except tf.errors.InvalidArgumentError as error:
            if run is not None and run.stopped:
                raise tf.errors.CancelledError(None, None, "Cancelled") from error
            raise

    def _run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        timeout: float | None,
        more: Mapping[tf.Tensor, np.generic] | None = None,
        beside: Sequence[tf.Operation] = (),
    ) -> list[np.ndarray]:
        """`more`: further feeds; `beside`: operations that run, too."""
        options = None
        tiny = len(fetches) == 1 and fetches[0] in self._tiny
        if tiny and timeout is None:
            options = pywrap_tf_session.TF_NewBufferFromString(_IN_THIS_THREAD)
        elif timeout is not None:
            run_options = tf.compat.v1.RunOptions(
                timeout_in_ms=max(1, int(timeout * 1000)),  # 0 would mean "no timeout" here
                inter_op_thread_pool=-1 if tiny else 0,
            )
            options = pywrap_tf_session.TF_NewBufferFromString(run_options.SerializeToString())
        try:
            return self._session._call_tf_sessionrun(
                options,
                {self._handles[name]: array for name, array in feeds.items()}
                | {tensor._as_tf_output(): array for tensor, array in (more or {}).items()},
                [self._handles[name] for name in fetches],
                [operation._c_op for operation in beside],
                None,
            )
        except KeyError as error:  # a signature's initializer, or a sparse input: no one tensor
            name = error.args[0]
            if name in feeds:
                raise status.not_found(f"FeedInputs: unable to find feed output {name}") from None
            raise status.invalid_argument(
                f"Tried to fetch data for '{name}', which produces no output.  To run to a node but not "
                f"fetch any data, pass '{name}' as an argument to the 'target_node_names' argument of the "
                "Session::Run API."
            ) from None
        except UnicodeDecodeError as error:
            # The runtime's message quoted input bytes that are not UTF-8.
            raise status.invalid_argument(error.object.decode(errors="replace")) from None
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)

    def close(self) -> None:
        """Frees the session; nothing may run any more."""
        self._session.close()


class _Operations:
    """What a node needs: how many operations, as far as `_TINY`, and whether there are loops."""

    def __init__(self, graph: graph_pb2.GraphDef) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._functions = {function.signature.name: function for function in graph.library.function}

    def behind(self, name: str) -> float:
        """Itself and those that lead to it, inside calls too; infinite with a loop or a branch among them."""
        count = 0.0
        for node in self._leading_to(name):
            if node is None:
                return math.inf
            count += self._operations(node)
            if count >= _TINY:  # a large graph has a hundred thousand, and many outputs
                break
        return count

    def loops(self, name: str) -> bool:
        """Whether there is a loop among what leads to an operation, inside calls and branches too."""
        nodes = [node for node in self._leading_to(name) if node is not None]
        seen: set[str] = set()
        while nodes:
            node = nodes.pop()
            if node.op in _LOOPS:
                return True
            for function in self._called(node):
                if function not in seen and function in self._functions:
                    seen.add(function)
                    nodes += self._functions[function].node_def
        return False

    def _leading_to(self, name: str) -> Iterator[node_def_pb2.NodeDef | None]:
        """The operation of that name and all that lead to it; None for one that is not there."""
        seen = {name}
        waiting = [name]
        while waiting:
            node = self._nodes.get(waiting.pop())
            yield node
            for source in () if node is None else node.input:
                source = source.lstrip("^").partition(":")[0]
                if source not in seen:
                    seen.add(source)
                    waiting.append(source)

    @staticmethod
    def _called(node: node_def_pb2.NodeDef) -> list[str]:
        """The functions of a call, a branch or a loop."""
        values = node.attr.values()
        one = [value.func.name for value in values if value.HasField("func")]
        return one + [func.name for value in values for func in value.list.func]

    def _operations(self, node: node_def_pb2.NodeDef, depth: int = 0) -> float:
        called = self._called(node)
        if not called:
            return math.inf if node.op in _LOOPS else 1.0
        if node.op not in _CALLS or called[0] not in self._functions or depth == _TINY:
            return math.inf
        count = 0.0
        for inner in self._functions[called[0]].node_def:
            count += self._operations(inner, depth + 1)
            if count >= _TINY:
                break
        return count
