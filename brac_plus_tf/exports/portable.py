"""What of a policy other runtimes can run: its ways to act that draw nothing themselves, with their guard inside."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from brac_plus_tf.policies.saved_policy import LoadedPolicy

_LARGEST = np.finfo(np.float32).max


def portable_ways(policy: LoadedPolicy) -> dict[str, Any]:
    """Concrete functions, by the names of `LoadedPolicy.deterministic`."""
    return {name: _guarded(signature) for name, signature in policy.deterministic().items()}


def _guarded(signature: Any) -> Any:
    """The signature, but that a row which is not finite is answered by NaN: other runtimes know no error from within.

    A comparison is what no optimiser takes away, as it would 0 times an observation. Each entry is also gathered by its
    number, and what was gathered set against what was given: LiteRT would broadcast one column over all, and now fails
    at the gathering where there are too few, at the comparison where there are too many.
    """
    specs: Mapping[str, tf.TensorSpec] = signature.structured_input_signature[1]

    def act(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        finite, gathered = tf.constant([[True]]), dict(given)
        for name in ("observation", *(["noise"] if "noise" in given else [])):
            gathered[name] = tf.gather(given[name], list(range(specs[name].shape[1])), axis=1)
            largest = tf.maximum(tf.abs(given[name]), tf.abs(gathered[name]))
            finite = tf.logical_and(finite, tf.reduce_all(largest <= _LARGEST, axis=1, keepdims=True))
        outputs = dict(signature(**gathered))
        return outputs | {"action": tf.where(finite, outputs["action"], tf.constant(np.nan, tf.float32))}

    inputs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in sorted(specs.items())}
    return tf.function(act, autograph=False).get_concrete_function(**inputs)
