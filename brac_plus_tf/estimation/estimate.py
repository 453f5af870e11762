"""A policy judged by recorded data alone: its value, that of a cloned policy, and what the data earned."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np
import tensorflow as tf

from brac_plus_tf.agents.actor_critic import draw_policy
from brac_plus_tf.agents.base import Policy, Stage
from brac_plus_tf.agents.cloning import ClonedPolicy, Cloning
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_json
from brac_plus_tf.core.randomness import base_seed, fold, initializer_seed
from brac_plus_tf.core.settings import HyperParameters, describe
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.estimation.fitted_q import FittedQ, FittedQLearner, in_tenths
from brac_plus_tf.estimation.judged_policy import ROWS, JudgedPolicy, check_judgeable, distance_between
from brac_plus_tf.estimation.model_rollouts import Model, Opinion, compare_in_model
from brac_plus_tf.estimation.verdict import (
    UNRELIABLE,
    Interval,
    Judgement,
    contradicts,
    discounted_returns,
    judge,
    of_members,
    of_sample,
)
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.multipliers import Multiplier
from brac_plus_tf.policies.acting import Acting
from brac_plus_tf.runs import trainer
from brac_plus_tf.runs.facts import host_facts
from brac_plus_tf.runs.metrics_log import read_metrics
from brac_plus_tf.runs.progress import TrainingProgress
from brac_plus_tf.runs.run_record import RunRecord
from brac_plus_tf.runs.smoke import Shortened
from brac_plus_tf.runs.stage_cache import StageCache

CLONE, POLICY = "clone_value", "policy_value"
_STATES = 1000  # from which a model is asked


@gin.register
@dataclasses.dataclass(frozen=True)
class Estimation(HyperParameters):
    """fitted_q: of both policies. cloning: of the one that the data's own return is to be found
    again by, so by plain maximum likelihood, without a floor on its entropy. draws: of an
    action that is a draw, for each state; they are made beforehand, and each step takes one.
    """

    fitted_q: FittedQ = FittedQ()
    cloning: Cloning = Cloning(
        fit=Fit(steps=20_000, batch_size=256, learning_rate=5e-4, decay=(1.0, 0.1)), entropy=Multiplier(0.0, 0.0)
    )
    draws: int = 4


class PolicyEvaluation:
    """A cloned policy, its value, and that of the policy in question, as the stages of a run.

    judged: None for the cloned policy alone.
    """

    def __init__(self, settings: Estimation, dataset: OfflineDataset, judged: JudgedPolicy | None, seed: int) -> None:
        self.cloned: ClonedPolicy = settings.cloning.build(dataset.dimensions, seed)
        self._dataset, self._settings = dataset, settings
        draw = self._draw
        self.clone_value = FittedQLearner(
            CLONE, settings.fitted_q, dataset, lambda row, state, own: draw(state, own), draw, seed
        )
        self.policy_value = None
        if judged:
            given = judged.next_action, judged.first_action
            self.policy_value = FittedQLearner(POLICY, settings.fitted_q, dataset, *given, seed)

    def _draw(self, observation: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return draw_policy(self.cloned.network, observation, 1, seed).action

    @property
    def gamma(self) -> float:
        """The discount of all values."""
        return self._settings.fitted_q.gamma

    def opinion(self, model: Model, judged: JudgedPolicy, seed: int) -> Opinion:
        """What a model says of the policy and of the cloned one, from states of the data."""
        scaling, count = self._dataset.scaling, self._dataset.number_of_transitions
        rows = np.random.default_rng(initializer_seed(seed, "states for a model")).integers(count, size=_STATES)
        starts = scaling.to_environment_observation(self._dataset.transitions.observation[rows])

        def clone(observation: np.ndarray, step: int) -> np.ndarray:
            state = tf.constant(scaling.normalize_observation(observation))
            own = fold(base_seed(initializer_seed(seed, "cloned actions for a model")), step)
            return scaling.to_environment_action(self._draw(state, own).numpy())

        return compare_in_model(model, judged.act, clone, starts, self.gamma)

    def clone_means(self, observation: np.ndarray) -> np.ndarray:
        """The cloned policy's means at observations [N, O]: [N, A]."""
        blocks = range(0, len(observation), ROWS)
        found = [tf.tanh(self.cloned.network(tf.constant(observation[at : at + ROWS]))[0]).numpy() for at in blocks]
        return np.concatenate(found)

    def clone_distance(self) -> float:
        """Of the cloned policy's means from the data's actions; see `distance_between`."""
        transitions = self._dataset.transitions
        return distance_between(self.clone_means(transitions.observation), transitions.action)

    def stages(self) -> Sequence[Stage]:
        """The first two are the data's alone: all candidates share them."""
        own = [self.policy_value.stage(writes=False)] if self.policy_value else []
        return [self.cloned.stage(), self.clone_value.stage(writes=True), *own]

    def components(self) -> dict[str, Sequence[tf.Variable]]:
        """All variables under stable names."""
        own = self.policy_value.components() if self.policy_value else {}
        return self.cloned.components() | self.clone_value.components() | own

    def buffers(self) -> dict[str, Sequence[tf.Variable]]:
        """None."""
        return {}

    def policies(self) -> dict[str, Policy]:
        """None: nothing here is trained to act."""
        return {}


@dataclasses.dataclass(frozen=True)
class Terms:
    """How a policy is judged.

    action: which of its ways to act, None for its first. smoke: a few steps of each stage, to see whether it works; the
    figures mean nothing then. model: what gives a second opinion.
    """

    action: str | None = None
    seed: int = 0
    settings: Estimation = Estimation()
    loop: trainer.Loop = trainer.Loop()
    smoke: bool = False
    model: Model | None = None

    def configuration(self) -> str:
        """What a judgement that goes on must have in common with that which was begun."""
        described = {"Estimation": describe(self.settings), "Loop": describe(self.loop), "action": self.action}
        return "".join(f"{name} = {value!r}\n" for name, value in described.items())


def estimate(
    directory: Path, cache: Path | None, dataset: OfflineDataset, policy: Acting | None, terms: Terms = Terms()
) -> dict[str, Any]:
    """What `estimate.json` holds: written to `directory`, where the run that finds it out is also kept and goes on.

    Args:
      cache: of stages that estimates on the same data share. dataset: with observations normalised. policy: anything
        that acts; None for the cloned policy.
    Raises:
      UserError: if the policy does not fit the data, or they hold no beginning of an episode.
    """
    settings, loop, seed, model, judged = terms.settings, terms.loop, terms.seed, terms.model, None
    terms = dataclasses.replace(terms, action="sample" if policy is None else terms.action or policy.actions[0])
    if policy is not None:
        check_judgeable(policy, str(terms.action), dataset)
        if model and model.dimensions != dataset.dimensions:
            raise UserError(f"the model is of {model.dimensions}, the data hold {dataset.dimensions}")
        judged = JudgedPolicy(policy, str(terms.action), dataset, settings.draws, seed)
    evaluation = PolicyEvaluation(settings, dataset, judged, seed)
    record = RunRecord(directory)
    common = {"action": terms.action, "smoke": terms.smoke}
    facts = {"agent": "estimate", "seed": seed, "dataset": dataset.facts(), "environment": None, **common}
    record.begin(terms.configuration(), {**facts, "host": host_facts()})
    learning = Shortened(evaluation) if terms.smoke else evaluation
    stages = StageCache(cache, learning, dataset, seed, loop.compiled, loop.steps_per_call) if cache else None
    trainer.run(trainer.TrainingRun(learning, dataset, record, stages, None, seed, loop, TrainingProgress()))
    opinion = evaluation.opinion(model, judged, seed) if model and judged else None
    distance = judged.distance() if judged else evaluation.clone_distance()
    content = {**common, "distance": distance, **_conclusion(evaluation, dataset, directory, opinion)}
    write_json(directory / "estimate.json", content)
    return content


def _conclusion(
    evaluation: PolicyEvaluation, dataset: OfflineDataset, directory: Path, opinion: Opinion | None
) -> dict[str, object]:
    gamma = evaluation.gamma
    clone, clone_drift = _value(directory, CLONE)
    policy, drift = _value(directory, POLICY) if evaluation.policy_value else (clone, clone_drift)
    learner = evaluation.policy_value or evaluation.clone_value
    returns = discounted_returns(dataset, gamma, _tail(evaluation, dataset))
    data = of_sample(returns)
    units = learner.units
    limits = tuple(float(learner.in_units(np.float64(limit))) for limit in (units.low, units.high))
    judgement = judge(policy, drift, clone, data, returns, (limits[0], limits[1]))
    if opinion and contradicts(policy, clone, opinion.difference):
        text = f"the model sees the policy {'below' if opinion.difference.mean < 0 else 'above'} the cloned one"
        judgement = Judgement(False, (*judgement.why, text), UNRELIABLE)
    return {
        "gamma": gamma,
        "estimate": policy._asdict(),
        "drift": drift,
        "clone": clone._asdict(),
        "data": data._asdict(),
        "episodes": len(returns),
        "model": opinion.to_json() if opinion else None,
        **judgement._asdict(),
    }


def _value(directory: Path, stage: str) -> tuple[Interval, float]:
    """The interval of a stage's last looks, and how far its mean has moved since those before them."""
    looks: dict[int, dict[str, float]] = {}
    for row in read_metrics(directory):
        if row.stage == stage and row.metric.startswith("value/"):
            looks.setdefault(row.step, {})[row.metric] = row.value
    last, before = in_tenths({step: np.array([values[k] for k in sorted(values)]) for step, values in looks.items()})
    return of_members(last), float(last.mean() - before.mean())


def _tail(evaluation: PolicyEvaluation, dataset: OfflineDataset) -> np.ndarray:
    """What the cloned policy would earn from each row's next state on [M]: needed where the recording was cut."""
    following = dataset.transitions.next_observation
    action, blocks = evaluation.clone_means(following), range(0, len(following), ROWS)
    values = (evaluation.clone_value.values(following[at : at + ROWS], action[at : at + ROWS]) for at in blocks)
    return np.concatenate([value.mean(axis=0) for value in values])


def report_lines(content: dict[str, Any]) -> str:
    """The figures, as people read them."""

    def told(value: dict[str, float]) -> str:
        return f"{value['mean']:10.4g} +- {value['half_width']:.3g}"

    lines = [
        f"discounted return from the starts of {content['episodes']:,} episodes, gamma {content['gamma']:g}; 95 %",
        f"  policy   {told(content['estimate'])}   ({content['action']})",
        f"  clone    {told(content['clone'])}",
        f"  data     {told(content['data'])}",
    ]
    if model := content["model"]:
        what = f"policy less clone, in {model['steps']} steps of a learned model"
        lines.append(f"  model    {told(model['difference'])}   ({what})")
    lines.append(f"verdict: {content['verdict']}")
    return "\n".join([*lines, *(f"  {reason}" for reason in content["why"])])
