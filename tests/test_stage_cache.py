import dataclasses
import logging
import shutil

import numpy as np
import pytest
import tensorflow as tf
import tiny
from tiny import Settings, TinyAgent, assert_same_bits, make_dataset, values

from brac_plus_tf.agents.base import Problem
from brac_plus_tf.agents.brac_plus import BRACPlus, Improvement
from brac_plus_tf.agents.thresholds import RelativeThreshold
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.behavior import VAEEnsemble
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.objectives.divergences import MMD, KLUpperBound, gaussian_kernel, laplacian_kernel
from brac_plus_tf.objectives.multipliers import GlobalMultiplier, MaximumEntropy, MinimumEntropy
from brac_plus_tf.objectives.penalties import NoPenalty
from brac_plus_tf.runs import stage_cache
from brac_plus_tf.runs.compiled_stage import take_step
from brac_plus_tf.runs.metrics_log import MetricRow
from brac_plus_tf.runs.run_record import StageReport, Warned
from brac_plus_tf.runs.stage_cache import StageCache, source_digest

DATASET = make_dataset()


def fill(agent) -> None:
    """Gives every variable a value of its own."""
    generator = np.random.default_rng(1)
    for variables in agent.components().values():
        for variable in variables:
            variable.assign(np.asarray(generator.normal(size=variable.shape) * 100, variable.dtype.as_numpy_dtype))


REPORT = StageReport([MetricRow("first", 4, "loss", 0.1)], [Warned("first", "", "broad")])


def cache_of(folder, agent, dataset=DATASET, seed=0, compiled=True, steps_per_call=4) -> StageCache:
    return StageCache(folder / "cache", agent, dataset, seed, compiled, steps_per_call)


@pytest.fixture
def stored(tmp_path) -> dict[str, np.ndarray]:
    """The variables of the agent whose first stage is in the cache."""
    agent = TinyAgent()
    fill(agent)
    cache_of(tmp_path, agent).store(agent.stages(), 0, REPORT)
    return values(agent)


def test_an_equal_run_gets_the_stored_variables_and_no_others(tmp_path, stored):
    agent = TinyAgent()
    before = values(agent)
    assert cache_of(tmp_path, agent).load(agent.stages(), 0) == REPORT
    after = values(agent)
    written = {"weight/000", "first_count/000"}
    assert_same_bits({name: after[name] for name in written}, {name: stored[name] for name in written})
    others = after.keys() - written
    assert_same_bits({name: after[name] for name in others}, {name: before[name] for name in others})
    assert not np.array_equal(before["weight/000"], stored["weight/000"])


def test_the_cache_is_empty_at_first(tmp_path):
    agent = TinyAgent()
    assert not cache_of(tmp_path, agent).load(agent.stages(), 0)


def test_a_stage_that_may_not_be_reused_is_not_kept(tmp_path):
    agent = TinyAgent()
    assert agent.stages()[1].writes == ()
    cache = cache_of(tmp_path, agent)
    cache.store(agent.stages(), 1, REPORT)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert not cache.load(agent.stages(), 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"compiled": False},
        {"steps_per_call": 5},
        {"dataset": make_dataset(seed=1)},
        {"dataset": make_dataset(rows=29)},
        {"dataset": dataclasses.replace(DATASET, scaling=dataclasses.replace(DATASET.scaling, reward_scale=2.0))},
    ],
    ids=["seed", "compiled", "steps per call", "dataset contents", "transitions", "scaling"],
)
def test_another_run_is_not_served(tmp_path, stored, changes):
    agent = TinyAgent()
    before = values(agent)
    assert not cache_of(tmp_path, agent, **changes).load(agent.stages(), 0)
    assert_same_bits(values(agent), before)


@pytest.mark.parametrize(
    ("agent", "reused"),
    [
        ({"settings": (Settings(rate=0.25), Settings())}, False),
        ({"steps": (12, 22)}, False),
        ({"settings": (Settings(), Settings(rate=0.25))}, True),
        ({"steps": (13, 5)}, True),
        ({"epoch_steps": 3}, False),  # where its metrics are taken
    ],
    ids=["own setting", "own steps", "later setting", "later steps", "epochs"],
)
def test_only_what_the_outcome_depends_on_counts(tmp_path, stored, agent, reused):
    agent = TinyAgent(**agent)
    assert (cache_of(tmp_path, agent).load(agent.stages(), 0) is not None) == reused


def test_changed_source_is_not_served(tmp_path, stored, monkeypatch):
    monkeypatch.setattr(stage_cache, "source_digest", lambda: "another")
    agent = TinyAgent()
    assert not cache_of(tmp_path, agent).load(agent.stages(), 0)


def test_a_change_in_any_room_changes_the_source_digest(tmp_path, monkeypatch):
    """Of a copy of the very folder that is hashed: no room may be forgotten when modules move."""
    copy = tmp_path / "package"
    shutil.copytree(stage_cache.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(stage_cache, "PACKAGE", copy)
    before = source_digest.__wrapped__()
    rooms = [folder for folder in copy.iterdir() if folder.is_dir()]
    assert {"core", "models", "objectives", "data", "agents", "runs"} <= {room.name for room in rooms}
    for room in rooms:
        module = max(room.glob("*.py"), key=lambda path: path.stat().st_size)
        text = module.read_text()
        module.write_text(text + "# changed\n")
        assert source_digest.__wrapped__() != before, room.name
        module.write_text(text)
    assert source_digest.__wrapped__() == before


def test_the_source_digest_follows_names_and_contents(tmp_path, monkeypatch):
    def digest_of(files: dict[str, str]) -> str:
        for path in tmp_path.rglob("*.py"):
            path.unlink()
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return source_digest.__wrapped__()

    monkeypatch.setattr(stage_cache, "PACKAGE", tmp_path)
    sources = [
        {"a.py": "x = 1", "agents/b.py": ""},
        {"a.py": "x = 2", "agents/b.py": ""},
        {"c.py": "x = 1", "agents/b.py": ""},
        {"a.py": "x = 1", "agents/b.py": "y"},
        {"a.py": "x = 1"},
    ]
    assert len({digest_of(files) for files in sources}) == len(sources)
    assert digest_of(sources[0]) == digest_of(dict(reversed(sources[0].items())))


def test_other_tensorflow_is_not_served(tmp_path, stored, monkeypatch):
    monkeypatch.setattr(tf, "__version__", "2.99.0")
    agent = TinyAgent()
    assert not cache_of(tmp_path, agent).load(agent.stages(), 0)


@pytest.mark.parametrize("damage", [lambda content: content[:50], lambda content: content[:-1] + b"\x07"])
def test_a_damaged_file_means_a_warning_and_computing_anew(tmp_path, stored, caplog, damage):
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    agent = TinyAgent()
    before = values(agent)
    with caplog.at_level(logging.WARNING):
        assert not cache_of(tmp_path, agent).load(agent.stages(), 0)
    (warning,) = caplog.messages
    assert str(path) in warning and "computed anew" in warning
    assert_same_bits(values(agent), before)

    fill(agent)
    cache_of(tmp_path, agent).store(agent.stages(), 0, REPORT)
    assert cache_of(tmp_path, TinyAgent()).load(agent.stages(), 0)


def test_a_cache_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    agent = TinyAgent()
    with pytest.raises(UserError, match=str(tmp_path / "cache")):
        cache_of(tmp_path, agent).store(agent.stages(), 0, REPORT)


# BRAC+'s three reusable stages ---------------------------------------------------------------------------------------

SMALL = {
    "actor": Actor((4,)),
    "critic": tiny.critic((4,)),
    "behavior": VAEEnsemble(hidden_sizes=(4,), members=2),
    "multiplier": GlobalMultiplier(),
    "entropy": MaximumEntropy(target=-2.0),
    "behavior_fit": Fit(steps=1, batch_size=5, decay=(1.0,)),
    "initial_policy_fit": Fit(steps=1, batch_size=5, decay=(1.0,)),
    "initial_critic_fit": Fit(steps=1, batch_size=5, decay=(1.0,)),
    "improvement": Improvement(epochs=1, steps_per_epoch=3, batch_size=5),
}
STAGES = ("behavior", "initial_policy", "initial_critic")
# changed settings -> the stages whose outcome they leave alone
VARIANTS = {
    "nothing": ({}, STAGES),
    "policy learning rate": (
        {"improvement": Improvement(epochs=1, steps_per_epoch=3, batch_size=5, policy_learning_rate=0.1)},
        STAGES,
    ),
    "main batch and length": ({"improvement": Improvement(epochs=2, steps_per_epoch=3, batch_size=6)}, STAGES),
    "penalty": ({"penalty": NoPenalty()}, STAGES),
    "threshold": ({"threshold": RelativeThreshold(3.0)}, STAGES),
    "divergence of the main stage": ({"divergence": MMD(samples=3)}, STAGES),
    "multiplier": ({"multiplier": GlobalMultiplier(initial=2.0)}, STAGES),
    "critic fit": ({"initial_critic_fit": Fit(steps=1, batch_size=5, learning_rate=0.1, decay=(1.0,))}, STAGES[:2]),
    "discount": ({"critic": tiny.critic((4,), gamma=0.5)}, STAGES[:2]),
    "target samples": ({"critic": tiny.critic((4,), target_samples=3)}, STAGES[:2]),
    "tau": ({"critic": tiny.critic((4,), tau=0.5)}, STAGES[:2]),
    "policy fit": ({"initial_policy_fit": Fit(steps=1, batch_size=5, learning_rate=0.1, decay=(1.0,))}, STAGES[:1]),
    "actor": ({"actor": Actor((4,), log_std_range=(-2.0, 0.0))}, STAGES[:1]),
    "initial divergence": ({"initial_divergence": KLUpperBound(latent_samples=2)}, STAGES[:1]),
    "kernel": ({"initial_divergence": MMD(samples=3, kernel=laplacian_kernel)}, STAGES[:1]),
    "another kernel": ({"initial_divergence": MMD(samples=3, kernel=gaussian_kernel)}, STAGES[:1]),
    "entropy rule": ({"entropy": MinimumEntropy(target=-2.0)}, STAGES[:1]),
    "entropy target": ({"entropy": MaximumEntropy(target=-3.0)}, STAGES[:1]),
    "entropy target measured": ({"entropy": MaximumEntropy(target=None)}, STAGES[:1]),
    "samples of the policy": (
        {"improvement": Improvement(epochs=1, steps_per_epoch=3, batch_size=5, policy_samples=3)},
        STAGES[:1],
    ),
    "behaviour members": ({"behavior": VAEEnsemble(hidden_sizes=(4,), members=3)}, ()),
    "behaviour shape": ({"behavior": VAEEnsemble(hidden_sizes=(4,), members=2, latent_size=1)}, ()),
    "behaviour fit": ({"behavior_fit": Fit(steps=1, batch_size=6, decay=(1.0,))}, ()),
}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A folder with the cache of SMALL, and the variables that its stages wrote."""
    folder, agent = tmp_path_factory.mktemp("reference"), build({})
    return folder, train(agent, cache=cache_of(folder, agent))


def build(changes) -> BRACPlus:
    return BRACPlus(Problem(Dimensions(3, 2)), 0, **(SMALL | changes))


def train(agent, count=3, cache=None) -> dict[str, dict[str, bytes]]:
    """One eager step of each of the first `count` stages of pre-training; returns what each wrote."""
    outcomes, stages = {}, agent.stages()
    for index, stage in enumerate(stages[:count]):
        seed = base_seed(index)
        stage.prepare(DATASET, 0, seed)
        take_step(stage, DATASET, seed, tf.constant(0))
        if cache:
            cache.store(stages, index, REPORT)
        components = agent.components()
        outcomes[stage.name] = {name: b"".join(v.numpy().tobytes() for v in components[name]) for name in stage.writes}
    return outcomes


@pytest.mark.parametrize("variant", VARIANTS)
def test_brac_plus_reuses_exactly_what_a_setting_leaves_alone(reference, variant):
    """Judged by training: a stage may be reused only if it would write the same bytes."""
    folder, expected = reference
    changes, unaffected = VARIANTS[variant]
    agent = build(changes)
    outcome = train(agent, count=min(len(unaffected) + 1, 3))
    assert tuple(name for name in outcome if outcome[name] == expected[name]) == unaffected
    cache = cache_of(folder, agent)
    assert tuple(name for index, name in enumerate(STAGES) if cache.load(agent.stages(), index)) == unaffected


@pytest.mark.parametrize("target_actor", [False, True])
def test_brac_plus_changes_nothing_but_what_a_stage_writes(target_actor):
    """So a run that reuses the stage has every variable that one which trained it has, optimiser slots included."""
    agent = build({"improvement": dataclasses.replace(SMALL["improvement"], target_actor=target_actor)})
    for index, stage in enumerate(agent.stages()[:3]):
        before, seed = values(agent), base_seed(index)
        stage.prepare(DATASET, 0, seed)
        take_step(stage, DATASET, seed, tf.constant(0))
        changed = {name for name, value in values(agent).items() if value.tobytes() != before[name].tobytes()}
        assert {name.partition("/")[0] for name in changed} == set(stage.writes), stage.name


def test_a_stage_that_writes_more_does_not_meet_what_wrote_less(tmp_path, caplog):
    improvements = [dataclasses.replace(SMALL["improvement"], target_actor=used) for used in (False, True)]
    agent, later = (build({"improvement": improvement}) for improvement in improvements)
    train(agent, cache=cache_of(tmp_path, agent))
    assert cache_of(tmp_path, later).load(later.stages(), 1) == REPORT
    assert cache_of(tmp_path, later).load(later.stages(), 2) is None
    assert caplog.messages == []
