import inspect

import numpy as np
import pytest
import tensorflow as tf

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.settings import checked
from brac_plus_tf.core.types import check_shapes

B, A, N = 5, 2, 3


def test_equal_letters_with_equal_sizes_pass():
    check_shapes((np.zeros([B, A]), "BA"), (tf.zeros([B]), "B"), (tf.zeros([N, B, A]), "NBA"), (np.float32(1), ""))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([((B, A), "BA"), ((B, 1), "B")], r"argument 1: expected shape \[B\], got \(5, 1\)"),  # the classic [B, 1]
        ([((B,), "BA")], r"argument 0: expected shape \[B, A\], got \(5,\)"),
        ([((B, A), "BA"), ((B + 1,), "B")], r"argument 1: axis B of \(6,\) should be 5"),
        ([((N, B), "NB"), ((B, N), "NB")], r"argument 1: axis N of \(5, 3\) should be 3"),
        ([((B, A), "BB")], r"argument 0: axis B of \(5, 2\) should be 5"),
    ],
)
def test_a_wrong_rank_or_size_is_named(pairs, message):
    with pytest.raises(ValueError, match=message):
        check_shapes(*((np.zeros(shape), letters) for shape, letters in pairs))


def test_sizes_unknown_while_tracing_are_not_compared_but_known_ones_are():
    def accepted(first, second):
        @tf.function
        def traced(x, y):
            check_shapes((x, "BA"), (y, "B"))
            return x

        return traced.get_concrete_function(tf.TensorSpec(first), tf.TensorSpec(second))

    accepted([None, A], [B])
    with pytest.raises(ValueError, match="argument 1: axis B"):
        accepted([N, A], [B])
    with pytest.raises(ValueError, match="argument 0: expected shape"):
        accepted([None], [None])


def test_the_check_adds_no_operation_to_a_graph():
    @tf.function
    def traced(x):
        check_shapes((x, "BA"))
        return x

    operations = traced.get_concrete_function(tf.TensorSpec([None, A])).graph.get_operations()
    assert {operation.type for operation in operations} <= {"Placeholder", "Identity"}


def test_checked_arguments_are_refused_by_name_and_keep_their_signature():
    @checked
    def train(steps: int, rate: float = 0.1, *, names: tuple[str, ...] = ()) -> int:
        return steps

    assert train(3, names=("a",)) == 3 and str(inspect.signature(train)).startswith("(steps: int, rate: float = 0.1")
    assert inspect.getfullargspec(train).args == ["steps", "rate"]  # what gin goes by
    for arguments, message in (
        ({"steps": -1}, r"train.steps is -1, it must be a whole number of at least 0"),
        ({"steps": 1, "rate": "0.1"}, r"train.rate is '0.1', it must be a number"),
        ({"steps": 1, "rate": float("nan")}, r"train.rate is nan"),
        ({"steps": True}, r"train.steps is True"),
        ({"steps": 1, "names": "ab"}, r"train.names is 'ab'"),
        ({"steps": 1, "names": ("a", 2)}, r"train.names is \('a', 2\)"),
    ):
        with pytest.raises(UserError, match=message.replace(".", r"\.")):
            train(**arguments)
