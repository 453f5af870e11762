"""A policy as it is deployed: raw observations in, the environment's own actions out, TensorFlow alone."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.base import Agent
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.policies.saved_model_check import check_saved_model

METADATA = "policy.json"


class DeployedPolicy(tf.Module):
    """An agent's ways to act with normalisation and action scaling inside.

    `act[name]` maps (observation [N, O] float32 in raw units, seed int32 scalar) to action [N, A] in the
    environment's own range; NaN or infinite observations raise tf.errors.InvalidArgumentError. Training evaluates
    these same functions that `save` exports.
    """

    def __init__(self, agent: Agent, dimensions: Dimensions, scaling: Scaling) -> None:
        super().__init__(name="policy")
        self.dimensions, self._scaling, self._policies = dimensions, scaling, agent.policies()
        # Keras' wrappers are no trackables of tf.Module; the list makes SavedModel find every captured variable
        self._state = [
            variable if isinstance(variable, tf.Variable) else variable.value
            for variables in agent.components().values()
            for variable in variables
        ]
        self.act = {name: self._compile(name) for name in self._policies}

    def _compile(self, name: str) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        policy, scaling = self._policies[name], self._scaling
        signature = [
            tf.TensorSpec([None, self.dimensions.observation], tf.float32, name="observation"),
            tf.TensorSpec([], tf.int32, name="seed"),
        ]

        @tf.function(input_signature=signature, autograph=False)
        def act(observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            # a loaded signature does not check its input's shape, and [N, 1] would be broadcast without a word
            observation = tf.ensure_shape(observation, [None, self.dimensions.observation])
            observation = tf.debugging.check_numerics(observation, "observation holds NaN or infinite values")
            normalized = scaling.normalize_observation(observation)
            action, _ = policy.act(normalized, (), tf.stack([seed, 0]))
            return scaling.to_environment_action(action)

        return act

    def save(self, directory: Path, facts: dict[str, object]) -> None:
        """Writes a SavedModel with `serving_default` (the first policy) and one signature for each other policy.

        Policies that need no seed take `observation`; seeded ones `observation` and `seed`. All return `action`.
        `facts` go into policy.json beside it. The directory appears whole or not at all.

        Raises:
          UserError: if the directory exists or cannot be written.
        """
        names = list(self._policies)
        signatures = {("serving_default" if name == names[0] else name): self._signature(name) for name in names}
        temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
        try:
            module = tf.Module()
            module.policy_state = self._used_state(signatures)
            tf.saved_model.save(module, str(temporary), signatures=signatures)
            content = {
                "observation_size": self.dimensions.observation,
                "action_size": self.dimensions.action,
                "actions": names,
                "scaling": json.loads(self._scaling.to_json()),
                **facts,
            }
            (temporary / METADATA).write_text(json.dumps(content, indent=2) + "\n")
            place_directory(temporary, directory)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"{directory}: cannot be written ({error})") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _signature(self, name: str) -> Any:
        act = self.act[name]
        observation = tf.TensorSpec([None, self.dimensions.observation], tf.float32, name="observation")
        if self._policies[name].seeded:

            @tf.function(input_signature=[observation, tf.TensorSpec([], tf.int32, name="seed")])
            def seeded(observation: tf.Tensor, seed: tf.Tensor) -> dict[str, tf.Tensor]:
                return {"action": act(observation, seed)}

            return seeded

        @tf.function(input_signature=[observation])
        def unseeded(observation: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"action": act(observation, tf.constant(0))}

        return unseeded

    def _used_state(self, signatures: dict[str, Any]) -> list[tf.Variable]:
        """The variables that acting reads; optimiser slots and the like stay out of the export."""
        used = {id(v) for function in signatures.values() for v in function.get_concrete_function().variables}
        return [variable for variable in self._state if id(variable) in used]


def place_directory(temporary: Path, directory: Path) -> None:
    """Renames a finished directory into place.

    Raises:
      UserError: if something is there already.
    """
    refuse_existing(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    os.replace(temporary, directory)


def refuse_existing(directory: Path) -> None:
    """Raises UserError if something is there already."""
    if directory.exists():
        raise UserError(f"{directory}: already exists; remove it or choose another name")


class LoadedPolicy:
    """A policy read back from `DeployedPolicy.save`; `dimensions` are its sizes, `actions` its ways to act."""

    def __init__(self, directory: Path) -> None:
        """Raises UserError if the directory does not hold an exported policy, or more than a policy."""
        self._directory = directory
        try:
            facts = json.loads((directory / METADATA).read_text())
            self.dimensions = Dimensions(int(facts["observation_size"]), int(facts["action_size"]))
            self.actions: list[str] = list(facts["actions"])
            check_saved_model(directory)
            signatures = tf.saved_model.load(str(directory)).signatures
            self._signatures = {
                name: signatures["serving_default" if name == self.actions[0] else name] for name in self.actions
            }
        except (OSError, ValueError, LookupError, TypeError, tf.errors.OpError) as error:
            raise UserError(f"{directory}: not an exported policy ({str(error).splitlines()[0]})") from error

    def check_action(self, name: str) -> None:
        """Raises UserError if the policy has no such way to act."""
        if name not in self._signatures:
            raise UserError(f"--action: {name!r} is none of {', '.join(self.actions)}")

    def check_fits(self, task: Task) -> None:
        """Raises UserError if the policy is for observations or actions of other sizes."""
        if self.dimensions != task.dimensions:
            raise UserError(
                f"{self._directory}: the policy is for {self.dimensions}, {task.name} has {task.dimensions}"
            )

    def act(self, name: str, observation: np.ndarray, seed: int) -> np.ndarray:
        """observation [N, O] in raw units -> action [N, A] in the environment's own range."""
        signature = self._signatures[name]
        arguments = {"observation": tf.constant(observation, tf.float32)}
        if "seed" in signature.structured_input_signature[1]:
            arguments["seed"] = tf.constant(seed, tf.int32)
        return signature(**arguments)["action"].numpy()
