"""A policy as it is deployed: raw observations in, the environment's own actions out, TensorFlow alone.

A policy with a state is given it as `state_0`, `state_1`, ..., and gives the next one under the same names. Where an
action is made with normal noise, a second signature takes the noise itself, for who has no TensorFlow to draw it.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.base import Agent, Policy, state_of
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.scaling import Scaling
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.policies.acting import Acting, WayToAct, way_to_act
from brac_plus_tf.policies.saved_model_check import check_function, check_saved_model

METADATA = "policy.json"
WITH_NOISE = "{}_with_noise"  # the signature of a way to act that takes its noise
_DEFAULT = "serving_default"  # what servers ask for


class DeployedPolicy(Acting, tf.Module):
    """An agent's ways to act with normalisation and action scaling inside.

    Training evaluates the same functions that `save` exports.
    """

    def __init__(self, agent: Agent, dimensions: Dimensions, scaling: Scaling, default: str | None = None) -> None:
        """Args: default: of its ways to act the one that comes first; None for the agent's first.

        Raises:
          UserError: if there is no such way, or the policy could not be exported: its graph may do nothing but compute
            actions.
        """
        super().__init__(name="policy")
        self.dimensions, self._scaling = dimensions, scaling
        # Keras' wrappers are no trackables of tf.Module; the list makes SavedModel find every captured variable
        self._variables = [
            variable if isinstance(variable, tf.Variable) else variable.value for variable in state_of(agent).values()
        ]
        self._act, self._with_noise, self._initial_state = (dict[str, Any]() for _ in range(3))
        policies = agent.policies()
        if default is not None:
            _check_named(default, policies)
        for name in sorted(policies, key=lambda name: name != default):  # the others keep their order
            policy = policies[name]
            self._act[name] = self._trace_act(policy)
            if policy.noise:
                self._with_noise[name] = self._trace_with_noise(policy)
            if _state_specs(policy):
                self._initial_state[name] = _trace_initial_state(policy)
        for name, function in [*self._act.items(), *self._with_noise.items(), *self._initial_state.items()]:
            self._check(function, f"the policy's way to act {name!r}")

    @property
    def actions(self) -> list[str]:
        """Names of its ways to act; the first is the default."""
        return list(self._act)

    def way(self, name: str) -> WayToAct:
        """The way to act of that name. Raises UserError if the policy has none."""
        _check_named(name, self._act)
        return way_to_act(self._act[name], self._initial_state.get(name))

    def _check(self, function: Any, what: str) -> None:
        """What TensorFlow or the loading of an export would refuse only after hours of training."""
        check_function(function, what)
        listed = {id(variable) for variable in self._variables}
        for variable in function.variables:
            if id(variable) not in listed:
                raise UserError(
                    f"{what}: reads the variable {variable.name!r}, which is none of the agent's components or buffers"
                )

    def _trace_act(self, policy: Policy) -> Any:
        """The concrete function (observation [N, O], seed if it draws, state_0, ..) -> action [N, A], state_0, .."""
        if policy.seeded:
            seed = {"seed": tf.TensorSpec(None, tf.int32, name="seed")}
            return self._trace(policy, seed, lambda given, rows: policy.noise_of(_seeds(given["seed"], rows)))
        # made here and now, so that the graph holds numbers and not how to draw them
        noise = policy.noise_of(tf.zeros([2], tf.int32)).numpy()
        return self._trace(policy, {}, lambda given, rows: tf.constant(noise))

    def _trace_with_noise(self, policy: Policy) -> Any:
        """The concrete function (observation [N, O], noise [N or 1, D], state_0, ..) -> action [N, A], state_0, .."""

        def given_noise(given: Mapping[str, tf.Tensor], rows: tf.Tensor) -> tf.Tensor:
            noise = tf.ensure_shape(given["noise"], [None, policy.noise])
            return tf.debugging.check_numerics(noise, "noise holds NaN or infinite values")

        return self._trace(
            policy, {"noise": tf.TensorSpec([None, policy.noise], tf.float32, name="noise")}, given_noise
        )

    def _trace(
        self,
        policy: Policy,
        more: Mapping[str, tf.TensorSpec],
        noise_from: Callable[[Mapping[str, tf.Tensor], tf.Tensor], tf.Tensor],
    ) -> Any:
        """Args: more: inputs beside observation and state. noise_from: (inputs, N) -> noise [N or 1, D]."""
        scaling, size, states = self._scaling, self.dimensions.observation, _state_specs(policy)
        structure = policy.initial_state(1)
        inputs = {"observation": tf.TensorSpec([None, size], tf.float32, name="observation")} | states | dict(more)

        @tf.function(autograph=False)
        def act(**given: tf.Tensor) -> dict[str, tf.Tensor]:
            # a loaded signature does not check its input's shape, and [N, 1] would be broadcast without a word
            observation = tf.ensure_shape(given["observation"], [None, size])
            observation = tf.debugging.check_numerics(observation, "observation holds NaN or infinite values")
            state = tf.nest.pack_sequence_as(structure, [given[name] for name in states])
            noise = noise_from(given, tf.shape(observation)[0])
            action, state = policy.act(scaling.normalize_observation(observation), state, noise)
            outputs = {"action": scaling.to_environment_action(action)}
            return outputs | dict(zip(states, tf.nest.flatten(state), strict=True))

        return act.get_concrete_function(**inputs)

    def save(self, directory: str | Path, facts: Mapping[str, object] = MappingProxyType({})) -> None:
        """Writes a SavedModel with a signature for each way to act, and the first once more as `serving_default`.

        Each takes `observation`; ways that draw also take `seed`, a scalar or one for each row; ways with a state also
        `state_0`, .., with which episodes begin as `initial_state_{name}` says of a `count` of them. All return
        `action` and the next state. Ways that need noise have a second signature, `{name}_with_noise`, which takes
        `noise`, normal draws of the caller's, [N, D] or [1, D] for all rows, and no seed. `facts` go into policy.json
        beside it. The directory appears whole or not at all.

        Raises:
          UserError: if the directory exists or cannot be written, or holds more than a policy needs.
        """
        directory = Path(directory)
        signatures = {_DEFAULT: self._act[self.actions[0]], **self._act}
        signatures |= {WITH_NOISE.format(name): function for name, function in self._with_noise.items()}
        signatures |= {f"initial_state_{name}": function for name, function in self._initial_state.items()}
        try:
            with placed_directory(directory) as temporary:
                module = tf.Module()
                # optimiser slots and the like, which acting does not read, stay out of the export
                used = {id(variable) for function in signatures.values() for variable in function.variables}
                module.policy_state = [variable for variable in self._variables if id(variable) in used]
                # an action is not differentiated: gradients that some operations bring along are no part of a policy
                options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
                tf.saved_model.save(module, str(temporary), signatures=signatures, options=options)
                check_saved_model(temporary)
                content = {
                    "observation_size": self.dimensions.observation,
                    "action_size": self.dimensions.action,
                    "actions": self.actions,
                    "scaling": json.loads(self._scaling.to_json()),
                    **facts,
                }
                (temporary / METADATA).write_text(json.dumps(content, indent=2) + "\n")
        except (OSError, tf.errors.OpError) as error:
            raise UserError(f"{directory}: cannot be written ({error})") from error


def _check_named(name: str, ways: Iterable[str]) -> None:
    if name not in ways:
        raise UserError(f"{name!r} is none of this policy's ways to act: {', '.join(ways)}")


def _signature(signatures: Mapping[str, Any], name: str) -> Any:
    """That of a way to act; exports of earlier versions have the first as `serving_default` alone."""
    return signatures[name if name in signatures else _DEFAULT]


def _state_specs(policy: Policy) -> dict[str, tf.TensorSpec]:
    """The tensors of a policy's state under the names that a signature has for them."""
    leaves = map(tf.convert_to_tensor, tf.nest.flatten(policy.initial_state(1)))
    return {
        f"state_{index}": tf.TensorSpec([None, *leaf.shape[1:]], leaf.dtype, name=f"state_{index}")
        for index, leaf in enumerate(leaves)
    }


def _trace_initial_state(policy: Policy) -> Any:
    """The concrete function (count) -> state_0, .. of that many episodes."""

    @tf.function(autograph=False)
    def initial_state(count: tf.Tensor) -> dict[str, tf.Tensor]:
        leaves = tf.nest.flatten(policy.initial_state(count))
        return {f"state_{index}": leaf for index, leaf in enumerate(leaves)}

    return initial_state.get_concrete_function(count=tf.TensorSpec([], tf.int32, name="count"))


def _seeds(seed: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
    """Seeds [N, 2] of the rows from a caller's [N], or scalar for all of them."""
    return tf.stack([tf.broadcast_to(seed, [rows]), tf.zeros([rows], tf.int32)], axis=1)


@contextlib.contextmanager
def placed_directory(directory: Path) -> Iterator[Path]:
    """A name beside `directory` to make it under, renamed to it if the block ends well and removed if not.

    Raises:
      UserError: if something is there already.
    """
    temporary = directory.with_name(f".{directory.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        place_directory(temporary, directory)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


class LoadedPolicy(Acting):
    """A policy read back from `DeployedPolicy.save`; `dimensions` are its sizes, `actions` its ways to act."""

    def __init__(self, directory: str | Path) -> None:
        """Raises UserError if the directory does not hold an exported policy, or more than a policy."""
        directory = self.directory = Path(directory)
        try:
            facts = json.loads((directory / METADATA).read_text())
            self.dimensions = Dimensions(int(facts["observation_size"]), int(facts["action_size"]))
            self._actions: list[str] = list(facts["actions"])
            check_saved_model(directory)
            self.scaling = Scaling.from_json(json.dumps(facts["scaling"]))
            self.model = tf.saved_model.load(str(directory))
            self._signatures = signatures = self.model.signatures
            self._ways = {
                name: way_to_act(_signature(signatures, name), signatures.get(f"initial_state_{name}"))
                for name in self.actions
            }
        except (OSError, ValueError, LookupError, TypeError, tf.errors.OpError) as error:
            raise UserError(f"{directory}: not an exported policy ({str(error).splitlines()[0]})") from error

    @property
    def actions(self) -> list[str]:
        """Names of its ways to act; the first is the default."""
        return self._actions

    def way(self, name: str) -> WayToAct:
        """The way to act of that name. Raises UserError if the policy has none."""
        _check_named(name, self.actions)
        return self._ways[name]

    def deterministic(self) -> dict[str, Any]:
        """Signatures that draw nothing themselves, by the name of their way to act or as `{name}_with_noise`."""
        found = {name: _signature(self._signatures, name) for name in self.actions}
        more = (WITH_NOISE.format(name) for name in self.actions)
        found |= {name: self._signatures[name] for name in more if name in self._signatures}
        return {
            name: function for name, function in found.items() if "seed" not in function.structured_input_signature[1]
        }

    def initial_state(self, name: str, count: int) -> dict[str, np.ndarray]:
        """`state_0`, .. with which `count` episodes begin, for a name of `deterministic`; {} if it has no state."""
        way = next(own for own in self.actions if name in (own, WITH_NOISE.format(own)))
        return {f"state_{index}": leaf for index, leaf in enumerate(self.way(way).initial_state(count))}

    def signatures(self) -> dict[str, dict[str, dict[str, dict[str, Any]]]]:
        """Of the SavedModel: name -> inputs, outputs -> name -> dtype and shape, None for any number of rows."""

        def told(specs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
            return {
                name: {"dtype": spec.dtype.name, "shape": spec.shape.as_list() if spec.shape.rank is not None else None}
                for name, spec in sorted(specs.items())
            }

        return {
            name: {"inputs": told(function.structured_input_signature[1]), "outputs": told(function.structured_outputs)}
            for name, function in sorted(self._signatures.items())
        }

    def check_fits(self, task: Task) -> None:
        """Raises UserError if the policy is for observations or actions of other sizes."""
        if self.dimensions != task.dimensions:
            raise UserError(f"{self.directory}: the policy is for {self.dimensions}, {task.name} has {task.dimensions}")
