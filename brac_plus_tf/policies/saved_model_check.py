"""Looks through a SavedModel before TensorFlow loads it: its graph may only compute actions from observations.

A SavedModel is a program. One from elsewhere could read and write files when it is loaded or called; a policy of this
package needs arithmetic and reads of its own weights, so anything else is refused.
"""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

from google.protobuf.message import DecodeError
from tensorflow.core.framework import node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2, saved_object_graph_pb2

from brac_plus_tf.core.errors import UserError

_OBJECTS = {"user_object", "variable", "bare_concrete_function", "constant", "function"}
_CALLS = {"StatefulPartitionedCall", "PartitionedCall"}
_OPERATIONS = _CALLS | set(
    """Abs AddV2 All Any ArgMax BatchMatMulV2 BiasAdd Bitcast BitwiseAnd BitwiseOr BitwiseXor BroadcastTo Cast
    CheckNumerics ConcatV2 Const Elu EnsureShape Equal Erf Erfinv Exp ExpandDims Expm1 Fill GatherV2 Greater
    GreaterEqual Identity LeakyRelu LeftShift Less LessEqual Log Log1p LogSoftmax LogicalAnd LogicalNot MatMul
    Max Maximum Mean Min Minimum Mul Neg NoOp NotEqual OnesLike Pack Pad PadV2 Placeholder Pow Prod Range
    ReadVariableOp RealDiv Relu Reshape RightShift Rsqrt Select SelectV2 Selu Shape Sigmoid Sign Slice Softmax
    Softplus Split SplitV Sqrt Square SquaredDifference Squeeze StatelessRandomGetAlg
    StatelessRandomGetKeyCounter StatelessRandomNormalV2 StatelessRandomUniformFullIntV2
    StatelessRandomUniformIntV2 StatelessRandomUniformV2 StridedSlice Sub Sum Tanh Tile TopKV2 Transpose Unpack
    ZerosLike""".split()
)


def check_saved_model(directory: Path) -> None:
    """Raises UserError if the SavedModel in `directory` holds more than a policy needs."""
    path = directory / "saved_model.pb"
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise UserError(f"{path}: not an exported policy ({error})") from error
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise UserError(f"{path}: not an exported policy (it must be a SavedModel of TensorFlow 2 with one graph)")
    graph = model.meta_graphs[0]
    objects = graph.object_graph_def
    # what is loaded or called is what the objects name: their functions and, of these, everything they call
    functions = {function.signature.name: function for function in attrgetter("library.function")(graph.graph_def)}
    waiting, seen = [*objects.concrete_functions, *_functions_of(objects, path)], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in functions:
            raise UserError(f"{path}: names a function {name!r} that it does not hold")
        for node in functions[name].node_def:
            if node.op not in _OPERATIONS:
                raise UserError(f"{path}: holds the operation {node.op}, which no policy needs; it is not loaded")
            waiting += list(_called(node))


def _functions_of(objects: saved_object_graph_pb2.SavedObjectGraph, path: Path) -> Iterator[str]:
    """Functions that loading the objects may run or make callable; objects of other kinds are refused."""
    for node in objects.nodes:
        kind = node.WhichOneof("kind")
        if kind not in _OBJECTS or node.saveable_objects or node.registered_saver:
            raise UserError(f"{path}: holds an object ({kind}) that no policy needs; it is not loaded")
        yield from node.function.concrete_functions
        if node.bare_concrete_function.concrete_function_name:
            yield node.bare_concrete_function.concrete_function_name


def _called(node: node_def_pb2.NodeDef) -> Iterator[str]:
    for value in node.attr.values():
        for function in (value.func, *value.list.func):
            if function.name:
                yield function.name
