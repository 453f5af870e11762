"""Looks through a policy's graph before it is trained, saved or loaded: it may only compute actions from observations.

A SavedModel is a program. One from elsewhere could read and write files when it is loaded or called; a policy of this
package needs arithmetic, loops and reads of its own weights, so anything else is refused. The same list holds for what
this package writes: a policy that could not be loaded is refused before it is trained.
"""

from collections.abc import Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from tensorflow.core.framework import function_pb2, node_def_pb2
from tensorflow.core.protobuf import saved_model_pb2, saved_object_graph_pb2

from brac_plus_tf.core.errors import UserError

_OBJECTS = {"user_object", "variable", "bare_concrete_function", "constant", "function"}
# Operations whose results are functions of their inputs and of the policy's own variables, and that do nothing else
# (Assert and CheckNumerics may end the call). What is not listed is refused, so that an operation of a later TensorFlow
# cannot slip in.
_OPERATIONS = set(
    """
    PartitionedCall StatefulPartitionedCall Case If StatelessCase StatelessIf StatelessWhile While
    EmptyTensorList TensorListConcatV2 TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem
    TensorListLength TensorListPopBack TensorListPushBack TensorListReserve TensorListResize TensorListSetItem
    TensorListSplit TensorListStack

    Assert CheckNumerics Const EnsureShape Identity IdentityN NoOp Placeholder PreventGradient ReadVariableOp
    StopGradient

    Abs Acos Acosh AddN AddV2 Asin Asinh Atan Atan2 Atanh BiasAdd Bitcast BitwiseAnd BitwiseOr BitwiseXor Cast Ceil
    ClipByValue Cos Cosh Digamma DivNoNan Elu Equal Erf Erfc Erfinv Exp Expm1 Floor FloorDiv FloorMod Greater
    GreaterEqual Inv Invert IsFinite IsInf IsNan LeakyRelu LeftShift Less LessEqual Lgamma Log Log1p LogSoftmax
    LogicalAnd LogicalNot LogicalOr Maximum Minimum Mod Mul MulNoNan Ndtri Neg NotEqual Pow RealDiv Reciprocal Relu
    Relu6 RightShift Rint Round Rsqrt Select SelectV2 Selu Sigmoid Sign Sin Sinh Softmax Softplus Softsign Sqrt Square
    SquaredDifference Sub Tan Tanh TruncateDiv TruncateMod Xdivy Xlog1py Xlogy

    All Any ArgMax ArgMin Bucketize Cumprod Cumsum CumulativeLogsumexp LowerBound Max Mean Min Prod SegmentSum Sum
    TopKV2 UnsortedSegmentMax UnsortedSegmentSum UpperBound

    BatchMatMulV2 BatchMatMulV3 Cholesky Einsum LogMatrixDeterminant MatMul MatrixBandPart MatrixDeterminant
    MatrixDiagPartV3 MatrixDiagV3 MatrixInverse MatrixSetDiagV3 MatrixSolve MatrixTriangularSolve Qr SelfAdjointEigV2
    Svd

    BroadcastArgs BroadcastTo ConcatOffset ConcatV2 ExpandDims Fill GatherNd GatherV2 InvertPermutation LinSpace
    MirrorPad OneHot OnesLike Pack Pad PadV2 Range Rank Reshape ReverseSequence ReverseV2 Roll ScatterNd Shape ShapeN
    Size Slice Split SplitV Squeeze StridedSlice TensorScatterAdd TensorScatterMax TensorScatterMin TensorScatterUpdate
    Tile Transpose Unpack Where ZerosLike

    RandomIndexShuffle StatelessMultinomial StatelessRandomGammaV3 StatelessRandomGetAlg StatelessRandomGetKeyCounter
    StatelessRandomNormalV2 StatelessRandomUniformFullIntV2 StatelessRandomUniformIntV2 StatelessRandomUniformV2
    StatelessShuffle StatelessTruncatedNormalV2
    """.split()
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
    names = [*objects.concrete_functions, *_functions_of(objects, path)]
    _check_functions(names, attrgetter("library.function")(graph.graph_def), str(path))


def check_function(function: Any, what: str) -> None:
    """Raises UserError if a concrete function's graph, or what it calls, holds more than a policy needs.

    Args:
      what: whose it is, for the message.
    """
    graph = function.graph.as_graph_def()
    _check_functions(list(_check_nodes(graph.node, what)), attrgetter("library.function")(graph), what)


def _check_functions(waiting: list[str], library: Iterable[function_pb2.FunctionDef], what: str) -> None:
    functions, seen = {function.signature.name: function for function in library}, set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name not in functions:
            raise UserError(f"{what}: names a function {name!r} that it does not hold")
        waiting += _check_nodes(functions[name].node_def, what)


def _check_nodes(nodes: Iterable[node_def_pb2.NodeDef], what: str) -> Iterator[str]:
    """The functions that the nodes call."""
    for node in nodes:
        if node.op not in _OPERATIONS:
            raise UserError(f"{what}: holds the operation {node.op}, which no policy may use")
        for value in node.attr.values():
            for function in (value.func, *value.list.func):
                if function.name:
                    yield function.name


def _functions_of(objects: saved_object_graph_pb2.SavedObjectGraph, path: Path) -> Iterator[str]:
    """Functions that loading the objects may run or make callable; objects of other kinds are refused."""
    for node in objects.nodes:
        kind = node.WhichOneof("kind")
        if kind not in _OBJECTS or node.saveable_objects or node.registered_saver:
            raise UserError(f"{path}: holds an object ({kind}), which no policy may use")
        yield from node.function.concrete_functions
        if node.bare_concrete_function.concrete_function_name:
            yield node.bare_concrete_function.concrete_function_name
