"""How many floating-point operations a training step takes: those of matrix products and convolutions, as is
the custom; a multiplication and an addition count as two."""

import math
from typing import Any

_Shape = tuple[int, ...]


class _Unknown(Exception):
    """A shape is not in the graph."""


def of_step(function: Any, length: int) -> float | None:
    """The operations of one step of the trainer's compiled loop; None where the graph does not tell.

    Args:
        function: a concrete one of the form `for _ in tf.range(n): step()`.
        length: how often the loops inside a step turn: those there are run along a window of text or music.
    """
    graph = function.graph.as_graph_def(add_shapes=True)
    library = {f.signature.name: f for f in graph.library.function}
    loops = [node for node in graph.node if node.op in ("While", "StatelessWhile")]
    try:
        bodies = [library[loop.attr["body"].func.name] for loop in loops]
        return float(sum(_of_function(body, library, length) for body in bodies))
    except _Unknown:
        return None


def _of_function(function: Any, library: dict[str, Any], length: int) -> int:
    shapes: dict[str, list[_Shape | None]] = {}
    for i, argument in enumerate(function.signature.input_arg):
        shapes[argument.name] = _shapes(function.arg_attr[i])
    for node in function.node_def:
        shapes[node.name] = _shapes(node)

    def shape(tensor: str) -> _Shape:
        # "node:output:0" in a function; its outputs are all of one kind wherever it matters here.
        name, *rest = tensor.split(":")
        known = shapes[name][int(rest[-1]) if rest else 0]
        if known is None or len(known) < 2:  # a handle has the shape of a number
            raise _Unknown
        return known

    total = 0
    for node in function.node_def:
        if node.op == "MatMul":
            a = shape(node.input[0])
            inner = a[0] if node.attr["transpose_a"].b else a[1]
            total += 2 * inner * math.prod(shape(node.name))
        elif node.op in ("BatchMatMulV2", "BatchMatMulV3"):
            a = shape(node.input[0])
            total += 2 * (a[-2] if node.attr["adj_x"].b else a[-1]) * math.prod(shape(node.name))
        elif node.op in ("Conv2D", "_FusedConv2D"):
            total += 2 * math.prod(shape(node.name)) * math.prod(shape(node.input[1])[:3])
        elif node.op == "Conv2DBackpropInput":
            total += 2 * math.prod(shape(node.input[2])) * math.prod(shape(node.input[1])[:3])
        elif node.op == "Conv2DBackpropFilter":
            total += 2 * math.prod(shape(node.input[2])) * math.prod(shape(node.name)[:3])
        elif node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            total += _of_function(library[node.attr["f"].func.name], library, length)
        elif node.op in ("If", "StatelessIf"):
            branches = (library[node.attr[b].func.name] for b in ("then_branch", "else_branch"))
            total += max(_of_function(branch, library, length) for branch in branches)
        elif node.op in ("While", "StatelessWhile"):
            total += length * _of_function(library[node.attr["body"].func.name], library, length)
    return total


def _shapes(node: Any) -> list[_Shape | None]:
    return [
        None if s.unknown_rank or any(d.size < 0 for d in s.dim) else tuple(d.size for d in s.dim)
        for s in node.attr["_output_shapes"].list.shape
    ] or [None]
