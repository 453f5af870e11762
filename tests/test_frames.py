"""How deep a reader has to go: from a command's `main` to a gradient there are at most eight calls of the package."""

import inspect

import pytest
import tensorflow as tf
from tiny import BINDINGS, run_here, write_hopper_dataset

from brac_plus_tf.core.files import PACKAGE

MOST = 8


def package_frames() -> list[str]:
    """Functions of the package on the stack, the outermost first; a function inside another is a call of its own."""
    frames = [frame for frame in inspect.stack(context=0) if frame.filename.startswith(str(PACKAGE))]
    return [frame.function for frame in reversed(frames)]


@pytest.mark.parametrize("gin_file", ["brac_plus/short.gin", "bc/base.gin"])
def test_eight_frames_from_main_to_the_gradient(tmp_path, monkeypatch, gin_file):
    stacks: list[list[str]] = []
    gradient = tf.GradientTape.gradient

    def noted(self, *arguments, **keywords):
        stacks.append(package_frames())
        return gradient(self, *arguments, **keywords)

    monkeypatch.setattr(tf.GradientTape, "gradient", noted)
    data = write_hopper_dataset(tmp_path / "hopper.hdf5")
    small = BINDINGS if gin_file.startswith("brac_plus") else ("behavior/Fit.steps = 2",)
    bindings = [f"--gin_bindings={binding}" for binding in (*small, "Loop.compiled = False")]
    outcome = run_here(
        "train",
        f"--gin_file={gin_file}",
        f"--dataset={data}",
        "--env=none",
        "--estimate=none",
        f"--root_dir={tmp_path}",
        *bindings,
    )
    assert outcome.status == 0, outcome.stderr
    # the network's own derivative within the penalty, the divergence's networks and the like are calls of a loss, or
    # of the gradient that TensorFlow's backward pass asks the penalty for
    inner = {"loss", "gradient_of"}
    main = [stack[stack.index("main") :] for stack in stacks if "main" in stack and inner.isdisjoint(stack)]
    assert main and max(map(len, main)) <= MOST, " ".join(max(main, key=len))
