"""What of a policy other runtimes can run: its ways to act that draw nothing themselves, with their guard inside."""

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from brac_plus_tf.policies.saved_policy import LoadedPolicy


def portable_ways(policy: LoadedPolicy) -> dict[str, Any]:
    """Concrete functions, by the names of `LoadedPolicy.deterministic`."""
    return {name: _guarded(signature) for name, signature in policy.deterministic().items()}


def _guarded(signature: Any) -> Any:
    """The signature, but that a row which is not finite is answered by NaN: other runtimes know no error from within.

    Each entry is gathered by its number, and what was gathered taken from what was given: that is 0, or NaN where it is
    not finite, and no optimiser knows so beforehand, as it would of 0 times an observation. LiteRT would broadcast one
    column over all, and now fails at the gathering where there are too few, at the difference where there are too many.
    """
    specs: Mapping[str, tf.TensorSpec] = signature.structured_input_signature[1]
    checked = [name for name in ("observation", "noise") if name in specs]

    def act(**given: tf.Tensor) -> dict[str, tf.Tensor]:
        gathered = dict(given)
        for name in checked:
            gathered[name] = tf.gather(given[name], list(range(specs[name].shape[1])), axis=1)
        outputs = dict(signature(**gathered))
        for name in checked:
            outputs["action"] += tf.reduce_sum(given[name] - gathered[name], axis=1, keepdims=True)
        return outputs

    inputs = {name: tf.TensorSpec(spec.shape, spec.dtype, name=name) for name, spec in sorted(specs.items())}
    return tf.function(act, autograph=False).get_concrete_function(**inputs)
