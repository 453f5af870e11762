"""Agents with their stages altered: what is added to observations, and what stays as it was."""

import dataclasses

import gin
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from tiny import NETWORKS, TinyAgent, make_dataset, write_hopper_dataset

from brac_plus_tf.agents.altered import Altered, NoisyObservations
from brac_plus_tf.agents.base import member_rows, uniform_rows
from brac_plus_tf.agents.bc import BC
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed, standard_normal
from brac_plus_tf.core.settings import describe
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.compiled_stage import compile_stage
from brac_plus_tf.runs.experiment import Experiment
from brac_plus_tf.runs.rebuilt import rebuild
from brac_plus_tf.runs.stage_cache import StageCache

SEED = tf.constant([3, 4], tf.int32)
DATA = make_dataset(rows=50)
DEVIATION = 0.3


class Drawing(TinyAgent):
    """An agent whose first stage draws in another way."""

    def __init__(self, draw) -> None:
        super().__init__()
        self._draw = draw

    def stages(self):
        first, *others = super().stages()
        return [dataclasses.replace(first, draw=self._draw), *others]


def batches(draw, seed=SEED):
    """Of a stage that draws so: as it is, and with noise."""
    noisy = NoisyObservations(Drawing(draw), DEVIATION).stages()[0].draw
    return draw(DATA, seed), noisy(DATA, seed)


def displacements(draw, seed=SEED) -> np.ndarray:
    plain, noisy = batches(draw, seed)
    return noisy.observation.numpy() - plain.observation.numpy()


@pytest.mark.parametrize("draw", [uniform_rows(4000), member_rows(2, 2000)])
def test_entries_get_independent_normal_noise_of_that_deviation(draw):
    noise = displacements(draw)
    flat = noise.reshape(-1, noise.shape[-1])
    assert flat.shape[0] == 4000
    for entry in flat.T:
        assert scipy.stats.kstest(entry, scipy.stats.norm(0.0, DEVIATION).cdf).pvalue > 1e-3
    off_diagonal = np.corrcoef(flat.T)[~np.eye(flat.shape[1], dtype=bool)]
    assert np.abs(off_diagonal).max() < 4.0 / np.sqrt(4000)
    assert abs(np.corrcoef(flat[:-1, 0], flat[1:, 0])[0, 1]) < 4.0 / np.sqrt(4000)


def test_the_whole_transition_is_moved_and_nothing_else_changes():
    plain, noisy = batches(uniform_rows(200))
    by = noisy.observation.numpy() - plain.observation.numpy()
    assert np.abs(by).min() > 0.0
    np.testing.assert_allclose(noisy.next_observation.numpy() - plain.next_observation.numpy(), by, atol=1e-6)
    for name in ("action", "reward", "discount", "next_action"):
        np.testing.assert_array_equal(getattr(noisy, name).numpy(), getattr(plain, name).numpy())


def test_each_draw_of_a_transition_has_noise_of_its_own():
    plain, noisy = batches(uniform_rows(200))
    moved = noisy.observation.numpy() - plain.observation.numpy()
    rows = plain.observation.numpy()
    same = [(i, j) for i in range(200) for j in range(i) if np.array_equal(rows[i], rows[j])]
    assert len(same) > 100 and all(np.abs(moved[i] - moved[j]).max() > 1e-3 for i, j in same)
    other = displacements(uniform_rows(200), tf.constant([3, 5], tf.int32))
    assert abs(np.corrcoef(moved.ravel(), other.ravel())[0, 1]) < 4.0 / np.sqrt(moved.size)


def test_noise_is_not_made_of_the_numbers_that_chose_the_rows():
    of_the_rows = DEVIATION * standard_normal([200, DATA.dimensions.observation], SEED).numpy()
    assert np.abs(displacements(uniform_rows(200)) - of_the_rows).max() > 0.1


def test_equal_seeds_give_equal_noise_eagerly_and_compiled():
    draw = NoisyObservations(Drawing(uniform_rows(50)), DEVIATION).stages()[0].draw
    _ = DATA.tensors
    compiled = tf.function(lambda seed: draw(DATA, seed), jit_compile=True, autograph=False)
    np.testing.assert_allclose(compiled(SEED).observation, draw(DATA, SEED).observation, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(draw(DATA, SEED).observation, draw(DATA, SEED).observation)


def test_all_stages_are_altered_and_all_else_is_the_agents():
    agent = TinyAgent()
    noisy = NoisyObservations(agent, DEVIATION)
    assert len(noisy.stages()) == len(agent.stages()) > 1
    for stage, other in zip(agent.stages(), noisy.stages(), strict=True):
        assert (stage.name, stage.steps, stage.epoch_steps, stage.writes) == (
            *(other.name, other.steps, other.epoch_steps, other.writes),
        )
        difference = other.draw(DATA, SEED).observation - stage.draw(DATA, SEED).observation
        assert np.std(difference) == pytest.approx(DEVIATION, rel=0.5)
        assert other.settings[: len(stage.settings)] == stage.settings
    assert noisy.components() == agent.components()
    assert noisy.buffers() == agent.buffers() and noisy.policies().keys() == agent.policies().keys()


def test_a_stage_learned_with_other_noise_is_not_taken_over(tmp_path):
    """Its cached outcome is found by its settings, which name the noise."""
    agents = [Altered(TinyAgent(), lambda stage: stage), *(NoisyObservations(TinyAgent(), d) for d in (0.1, 0.2))]
    caches = [StageCache(tmp_path, agent, DATA, 0, True, 5) for agent in agents]
    paths = {cache._path(agent.stages(), 0) for cache, agent in zip(caches, agents, strict=True)}
    assert len(paths) == 3
    assert "0.1" in str(describe(agents[1].stages()[0].settings))


@pytest.mark.parametrize("deviation", [0.0, -0.1, float("nan"), float("inf")])
def test_a_deviation_that_is_none_is_refused(deviation):
    with pytest.raises(UserError, match="deviation"):
        NoisyObservations(TinyAgent(), deviation)


def test_batches_that_are_no_transitions_are_refused_by_the_stages_name():
    agent = NoisyObservations(Drawing(lambda data, seed: {"inputs": tf.zeros([3])}), DEVIATION)
    stage = agent.stages()[0]
    with pytest.raises(UserError, match=f"stage {stage.name} learns from no batches of transitions"):
        compile_stage(stage, DATA, base_seed(0))


@pytest.fixture
def clean():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("smoke", [False, True])
def test_an_experiment_gives_its_agent_the_noise_that_is_bound(smoke):
    bindings = ["Experiment.dataset = 'hopper-medium-v0'", "Experiment.environment = 'none'", *NETWORKS]
    bindings += ["Experiment.observation_noise = 0.25", f"Experiment.smoke = {smoke}"]
    experiment = configuration.build(Experiment, ["bc/base.gin"], bindings)
    agent = experiment.agent_for(DATA, None, 0)
    quiet = dataclasses.replace(experiment, observation_noise=0.0).agent_for(DATA, None, 0)
    (stage,), (quiet_stage,) = agent.stages(), quiet.stages()
    assert stage.steps == quiet_stage.steps == (8 if smoke else 300_000)
    difference = stage.draw(DATA, SEED).observation - quiet_stage.draw(DATA, SEED).observation
    assert np.std(difference) == pytest.approx(0.25, rel=0.1)
    assert not isinstance(quiet, NoisyObservations)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("smoke", [False, True])
def test_what_is_read_from_a_run_is_the_agent_itself(tmp_path, smoke):
    """Whose networks are asked for by name."""
    settings = [f"Experiment.dataset = '{write_hopper_dataset(tmp_path / 'd.hdf5')}'", *NETWORKS]
    settings += [
        "Experiment.environment = 'none'",
        "Experiment.observation_noise = 0.25",
        f"Experiment.smoke = {smoke}",
    ]
    (tmp_path / "operative_config.gin").write_text("\n".join(["include 'bc/base.gin'", *settings]))
    assert isinstance(rebuild(tmp_path).agent, BC)
