"""Answers recorded observations by an exported policy, with NumPy and the export's own runtime alone.

    python client.py onnx|litert|saved_model DIRECTORY INPUTS.npz OUTPUTS.npz

It imports nothing of this package, whose exports are compared with the policy by it, and is the shortest program that
acts by each format. INPUTS hold, for each way to act, `{way}/observation` [T, N, O], T steps of N episodes, and what
else its signature takes: `noise` [N, D], and the `state_0`, .. with which the episodes begin; OUTPUTS then
`{way}/action` [T, N, A] and the last state.
"""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Answer = Callable[[Mapping[str, np.ndarray]], Arrays]  # what a signature takes, by name -> what it gives


def open_onnx(directory: Path, way: str) -> Answer:
    """One file for each way to act. ONNX has one name for one tensor: the next `state_0` is `next_state_0` there."""
    import onnxruntime

    session = onnxruntime.InferenceSession(directory / f"{way}.onnx", providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    names = [name.removeprefix("next_") for name in outputs]
    return lambda inputs: dict(zip(names, session.run(outputs, dict(inputs)), strict=True))


def open_litert(directory: Path, way: str) -> Answer:
    """One file, and a signature in it for each way to act."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(model_path=str(directory / "policy.tflite")).get_signature_runner(way)
    return lambda inputs: dict(runner(**inputs))


def open_saved_model(directory: Path, way: str) -> Answer:
    """TensorFlow's signature of that name; the first way to act is the one that servers ask for by default."""
    import tensorflow as tf

    model = tf.saved_model.load(str(directory))
    answer = tensorflow_answer(model.signatures[way if way in model.signatures else "serving_default"])
    answer.model = model  # type: ignore[attr-defined]  # signatures alone do not keep their variables
    return answer


def tensorflow_answer(signature: Any) -> Answer:
    """A SavedModel's signature, on arrays."""
    import tensorflow as tf

    def answer(inputs: Mapping[str, np.ndarray]) -> Arrays:
        outputs = signature(**{name: tf.constant(values) for name, values in inputs.items()})
        return {name: values.numpy() for name, values in outputs.items()}

    return answer


RUNTIMES = {"onnx": open_onnx, "litert": open_litert, "saved_model": open_saved_model}


def play(answer: Answer, inputs: Mapping[str, np.ndarray]) -> Arrays:
    """T steps, in each of which the policy is given the state that it gave in the one before."""
    given = {name: values for name, values in inputs.items() if name != "observation"}
    actions, state = [], Arrays()
    for observation in inputs["observation"]:
        outputs = answer({"observation": observation, **given})
        actions.append(outputs["action"])
        state = {name: values for name, values in outputs.items() if name != "action"}
        given |= state
    return {"action": np.stack(actions), **state}


def main(runtime: str, directory: str, inputs: str, outputs: str) -> None:
    """The program."""
    given, found = np.load(inputs), Arrays()
    for way in sorted({key.partition("/")[0] for key in given}):
        answer = RUNTIMES[runtime](Path(directory), way)
        own = {key.partition("/")[2]: given[key] for key in given if key.startswith(f"{way}/")}
        found |= {f"{way}/{name}": values for name, values in play(answer, own).items()}
    np.savez(outputs, **found)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
