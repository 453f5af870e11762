"""Acts with an exported policy; needs TensorFlow (and its NumPy) alone, and refuses to import anything of this package.

usage: python scripts/quickstart_act.py POLICY OBSERVATIONS.npy ACTIONS.npy

Reads observations [N, O] in the environment's own units and writes the actions [N, A] that the policy takes there.
"""

import sys

import numpy as np
import tensorflow as tf

sys.modules["brac_plus_tf"] = None  # type: ignore[assignment]  # from here on, importing it is an error


def main(policy: str, observations: str, actions: str) -> None:
    act = tf.saved_model.load(policy).signatures["serving_default"]
    observation = tf.constant(np.load(observations, allow_pickle=False), tf.float32)
    np.save(actions, act(observation=observation)["action"].numpy())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python scripts/quickstart_act.py POLICY OBSERVATIONS.npy ACTIONS.npy")
    main(*sys.argv[1:])
