import contextlib
import dataclasses
import logging
import os
import pathlib
import signal

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import load_file
from tiny import Settings, TinyAgent, assert_same_bits, events, make_dataset, values

from brac_plus_tf.agents.base import Preparation, state_of
from brac_plus_tf.core import files
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.randomness import base_seed, standard_normal
from brac_plus_tf.core.stopping import Interrupted
from brac_plus_tf.runs import trainer
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step
from brac_plus_tf.runs.metrics_log import read_metrics
from brac_plus_tf.runs.progress import TrainingProgress
from brac_plus_tf.runs.run_record import RunRecord
from brac_plus_tf.runs.stage_cache import StageCache
from brac_plus_tf.runs.trainer import Loop

DATASET = make_dataset()
# TinyAgent: 13 + 22 steps, epochs of 6; a call of at most 4 steps ends at each epoch
LOOP = Loop(steps_per_call=4, checkpoint_interval=5, evaluation_epochs=2, compiled=False)


class Run:
    """A directory in which agents are trained one after another, as a command that is started again would."""

    def __init__(self, folder: pathlib.Path, loop: Loop = LOOP, seed: int = 0) -> None:
        self.directory, self.cache = folder / "run", folder / "cache"
        self.loop, self.seed = loop, seed

    def train(self, agent, evaluate=lambda: {"return_mean": 1.0}, snapshot=None) -> None:
        record = RunRecord(self.directory)
        cache = StageCache(self.cache, agent, DATASET, self.seed, self.loop.compiled, self.loop.steps_per_call)
        try:
            given = (agent, DATASET, record, cache, evaluate, self.seed, self.loop, TrainingProgress(), snapshot)
            trainer.run(trainer.TrainingRun(*given))
        finally:
            record.flush()
            record._lock.close()

    @property
    def metrics(self) -> bytes:
        return (self.directory / "metrics.csv").read_bytes()

    def rows(self, stage: str, metric: str) -> dict[int, float]:
        return {
            row.step: row.value for row in read_metrics(self.directory) if (row.stage, row.metric) == (stage, metric)
        }

    def newest_checkpoint(self) -> pathlib.Path:
        return max((self.directory / "checkpoints").iterdir())


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A finished run and its agent."""
    run, agent = Run(tmp_path_factory.mktemp("uninterrupted")), TinyAgent()
    run.train(agent)
    return run, agent


# What happens when ---------------------------------------------------------------------------------------------------


def test_calls_end_at_multiples_and_at_the_end_of_epochs_and_stages(uninterrupted):
    """By hand: calls of at most 4, cut at epochs of 6 and at the ends 13 and 22."""
    run, _ = uninterrupted
    assert list(run.rows("first", "count")) == [4, 6, 8, 12, 13]
    assert list(run.rows("second", "count")) == [4, 6, 8, 12, 16, 18, 20, 22]


def test_metrics_are_means_over_the_steps_of_a_call(uninterrupted):
    """The metric counts steps: 1, 2, 3, 4 have the mean 2.5, the partial calls 5, 6 and 7, 8 have 5.5 and 7.5."""
    run, _ = uninterrupted
    assert run.rows("first", "count") == {4: 2.5, 6: 5.5, 8: 7.5, 12: 10.5, 13: 13.0}


def test_every_step_is_taken_once(uninterrupted):
    _, agent = uninterrupted
    assert [int(count.numpy()) for count in agent.counts] == [13, 22]


def test_prepare_runs_before_the_first_step_of_each_epoch(uninterrupted):
    _, agent = uninterrupted
    first = [("first", step) for step in (0, 6, 12)]
    assert agent.prepare_calls == first + [("second", step) for step in (0, 6, 12, 18)]


def test_evaluation_every_second_epoch_and_at_the_end_of_stages_that_ask_for_it(uninterrupted):
    run, _ = uninterrupted
    assert run.rows("second", "evaluation/return_mean") == {12: 1.0, 22: 1.0}
    assert run.rows("first", "evaluation/return_mean") == {}


def test_evaluation_sees_the_variables_of_its_step(tmp_path):
    agent, run = TinyAgent(), Run(tmp_path)
    run.train(agent, lambda: {"steps": float(agent.counts[1].numpy())})
    assert run.rows("second", "evaluation/steps") == {12: 12.0, 22: 22.0}


class AlsoEvaluatedFirst(TinyAgent):
    """Its first stage, which other runs may share, is evaluated, too."""

    def stages(self):
        first, second = super().stages()
        return dataclasses.replace(first, evaluate=True), second


@pytest.mark.parametrize(("epochs", "expected"), [(0, []), (1, [6, 12, 18]), (2, [12]), (3, [18])])
def test_snapshots_are_of_the_evaluated_stages_policy_after_so_many_epochs(tmp_path, epochs, expected):
    agent, steps, taken = TinyAgent(), [], []
    run = Run(tmp_path, dataclasses.replace(LOOP, snapshot_epochs=epochs))
    run.train(agent, None, lambda step: (steps.append(step), taken.append(int(agent.counts[1].numpy()))))
    assert steps == taken == expected


def test_snapshots_are_taken_where_the_stage_could_have_been_taken_over(tmp_path):
    """From a run that made none."""
    Run(tmp_path).train(AlsoEvaluatedFirst(), None)
    steps, again = [], Run(tmp_path, dataclasses.replace(LOOP, snapshot_epochs=1))
    again.directory = tmp_path / "again"
    again.train(AlsoEvaluatedFirst(), None, steps.append)
    assert steps == [6, 12, 6, 12, 18]


def test_without_an_environment_nothing_is_evaluated(tmp_path):
    run = Run(tmp_path)
    run.train(TinyAgent(), evaluate=None)
    assert not [row for row in read_metrics(run.directory) if row.metric.startswith("evaluation")]


def test_checkpoints_when_an_interval_is_passed_and_at_the_end_of_stages(tmp_path, monkeypatch):
    """By hand: intervals of 5 are passed by the calls that end at 6, 12 (not 8) and 6, 12, 16, 20."""
    saved, save = [], RunRecord.save

    def note(record, variables, position):
        saved.append(tuple(position))
        save(record, variables, position)

    monkeypatch.setattr(RunRecord, "save", note)
    Run(tmp_path).train(TinyAgent())
    assert saved == [(0, 6), (0, 12), (1, 0), (1, 6), (1, 12), (1, 16), (1, 20), (2, 0)]


def test_warnings_of_prepare_name_the_stage_and_its_metrics_are_recorded(tmp_path, caplog):
    agent = TinyAgent(steps=(1, 1))
    first, second = agent.stages()
    found = Preparation(["the threshold is too low"], {"measured": 2.5})
    agent.stages = lambda: (first, dataclasses.replace(second, prepare=lambda dataset, step, seed: found))
    run = Run(tmp_path)
    with caplog.at_level(logging.WARNING):
        run.train(agent)
    assert caplog.messages == ["second: the threshold is too low"]
    assert run.rows("second", "measured") == {0: 2.5} and run.rows("first", "measured") == {}


def test_what_a_stage_watches_is_asked_after_each_epoch_and_said_once(tmp_path, caplog):
    """Epochs of 6 end at 6, 12, 18 and, cut off, at 22."""
    agent, asked = TinyAgent(), []
    first, second = agent.stages()

    def watch(dataset, step, metrics):
        asked.append((step, metrics["count"]))
        return {"count": f"count is {metrics['count']:g}"} if step > 6 else {}

    object.__setattr__(second, "watch", watch)
    agent.stages = lambda: (first, second)
    with caplog.at_level(logging.WARNING):
        Run(tmp_path).train(agent)
    assert asked == [(6, 5.5), (12, 10.5), (18, 17.5), (22, 21.5)]
    said = [message for message in caplog.messages if "count is" in message]
    assert said == ["second step 12: count is 10.5"]


@pytest.mark.parametrize("name", ["steps_per_call", "checkpoint_interval", "evaluation_epochs"])
def test_an_interval_of_zero_is_refused(name):
    with pytest.raises(UserError, match=f"Loop.{name} is 0"):
        Loop(**{name: 0})


class Recorder(TinyAgent):
    """Holds in a buffer which steps its second stage was told."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.told = tf.Variable(np.full(22, -1.0, np.float32))

    def buffers(self):
        return {"told": [self.told]}

    def stages(self):
        first, second = super().stages()

        def update(batch, seed, step):
            self.told.scatter_nd_update([[step]], [tf.cast(step, tf.float32)])
            return second.update(batch, seed)

        return first, dataclasses.replace(second, update=update, needs_step=True)


def test_an_update_is_told_its_step_and_buffers_are_kept_in_checkpoints_but_not_tested_at_every_call(
    tmp_path, monkeypatch
):
    tested = []
    monkeypatch.setattr(trainer, "_is_finite", lambda variable: tested.append(variable) or True)
    run, agent = Run(tmp_path), Recorder(steps=(1, 22))
    with pytest.raises(Interrupted):
        run.train(agent, at(("evaluate", 1), stop)[1])
    resumed = Recorder(steps=(1, 22))
    run.train(resumed)
    np.testing.assert_array_equal(resumed.told.numpy(), np.arange(22))
    assert any(variable is resumed.weight for variable in tested)
    assert not any(variable is told for variable in tested for told in (agent.told, resumed.told))


# What is computed ----------------------------------------------------------------------------------------------------


def test_first_steps_by_hand():
    """Two steps of the first stage in numpy, from the same draws: w <- w + rate (mean batch + noise + prepared - w)."""
    agent = TinyAgent(settings=(Settings(rate=0.25), Settings()))
    stage, seed = agent.stages()[0], base_seed(7)
    agent.prepared.assign(0.5)
    weight, noises, batches = agent.weight.numpy().astype(np.float64), [], []
    original = stage.update

    def spy(batch, step_seed):
        batches.append(batch.observation.numpy())
        noises.append(standard_normal([3], step_seed).numpy())
        return original(batch, step_seed)

    object.__setattr__(stage, "update", spy)
    for step in range(2):
        take_step(stage, DATASET, seed, tf.constant(step))
    for batch, noise in zip(batches, noises, strict=True):
        weight += 0.25 * (batch.mean(axis=0) + noise + 0.5 - weight)
    np.testing.assert_allclose(agent.weight.numpy(), weight, rtol=1e-5)
    rows = DATASET.transitions.observation
    assert all(batch.shape == (4, 3) and all((rows == row).all(axis=1).any() for row in batch) for batch in batches)
    assert not np.array_equal(batches[0], batches[1])
    assert not np.array_equal(noises[0], noises[1])


@pytest.mark.parametrize("compiled", [False, True])
def test_a_stage_is_traced_once_for_calls_of_any_length(compiled):
    agent = TinyAgent()
    run_steps = compile_stage(agent.stages()[0], DATASET, base_seed(0), compiled)
    for first, count in ((0, 4), (4, 2), (6, 1), (7, 30)):
        run_steps(first, count)
    assert agent.updates == {"first": 1, "second": 0}
    assert int(agent.counts[0].numpy()) == 37


def test_a_whole_run_traces_each_stage_once(uninterrupted):
    _, agent = uninterrupted
    assert agent.updates == {"first": 1, "second": 1}


def test_compiled_equals_plain_graph_and_eager_steps():
    ends = []
    for mode in ("eager", "graph", "xla"):
        agent = TinyAgent()
        stage, seed = agent.stages()[0], base_seed(3)
        if mode == "eager":
            for step in range(9):
                take_step(stage, DATASET, seed, tf.constant(step))
        else:
            compile_stage(stage, DATASET, seed, compiled=mode == "xla")(0, 9)
        ends.append(values(agent))
    for name, eager in ends[0].items():
        np.testing.assert_allclose(ends[1][name], eager, rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(ends[2][name], eager, rtol=1e-5, atol=1e-6, err_msg=name)


def test_how_steps_are_cut_into_calls_changes_no_bit(uninterrupted, tmp_path):
    agent = TinyAgent()
    Run(tmp_path, Loop(steps_per_call=100, checkpoint_interval=100, compiled=False)).train(agent)
    assert_same_bits(values(agent), values(uninterrupted[1]))


def test_the_seed_decides_every_draw(uninterrupted, tmp_path):
    again, other = TinyAgent(), TinyAgent()
    repeated = Run(tmp_path / "again")
    repeated.train(again)
    Run(tmp_path / "other", seed=1).train(other)
    run, agent = uninterrupted
    assert_same_bits(values(again), values(agent))
    assert repeated.metrics == run.metrics
    differing = {name for name, value in values(other).items() if not np.array_equal(value, values(agent)[name])}
    assert differing == {"weight/000", "second/000", "second/002"}  # all but the counters


def test_stages_and_epochs_draw_from_streams_of_their_own(tmp_path):
    """The same step number must not mean the same noise: prepare's draws differ between stages and epochs."""
    drawn = []
    agent = TinyAgent(on_prepare=lambda stage, step: drawn.append(float(agent.prepared.numpy())))
    Run(tmp_path).train(agent)
    assert len(set(drawn)) == len(drawn) == 7


# Resuming ------------------------------------------------------------------------------------------------------------


def stop(by: int = signal.SIGTERM) -> None:
    os.kill(os.getpid(), by)


class CrashError(RuntimeError):
    """Stands for a killed process: nothing after it runs."""


def crash() -> None:
    raise CrashError


def at(moment, act):
    """Arguments for an agent and `train` so that `act` happens at ("prepare", stage, step) or ("evaluate", n)."""
    evaluations = []

    def on_prepare(stage, step):
        if ("prepare", stage, step) == moment:
            act()

    def evaluate():
        evaluations.append(1)
        if ("evaluate", len(evaluations)) == moment:
            act()
        return {"return_mean": 1.0}

    return on_prepare, evaluate


MOMENTS = [
    ("prepare", "first", 0),
    ("prepare", "first", 6),
    ("prepare", "first", 12),  # the stage ends with the call that follows
    ("prepare", "second", 0),
    ("prepare", "second", 18),
    ("evaluate", 1),
    ("evaluate", 2),  # after the last step
]


def assert_resumed_exactly(run, uninterrupted) -> None:
    resumed = TinyAgent()
    run.train(resumed)
    expected_run, expected = uninterrupted
    assert_same_bits(values(resumed), values(expected))
    assert run.metrics == expected_run.metrics


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, uninterrupted, moment):
    on_prepare, evaluate = at(moment, stop)
    run, interrupted = Run(tmp_path), TinyAgent(on_prepare=on_prepare)
    with pytest.raises(Interrupted):
        run.train(interrupted, evaluate)
    saved = load_file(run.newest_checkpoint())
    assert_same_bits(saved, values(interrupted))  # nothing done is lost
    assert_resumed_exactly(run, uninterrupted)


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_run_that_crashed_goes_on_to_the_same_bits(tmp_path, uninterrupted, moment):
    on_prepare, evaluate = at(moment, crash)
    run = Run(tmp_path)
    with pytest.raises(CrashError):
        run.train(TinyAgent(on_prepare=on_prepare), evaluate)
    assert_resumed_exactly(run, uninterrupted)


def test_many_interruptions_in_a_row(tmp_path, uninterrupted):
    run = Run(tmp_path)
    for moment, act in ((MOMENTS[1], stop), (MOMENTS[3], crash), (MOMENTS[4], stop), (("evaluate", 1), crash)):
        on_prepare, evaluate = at(moment, act)
        with pytest.raises((Interrupted, CrashError)):
            run.train(TinyAgent(on_prepare=on_prepare), evaluate)
    assert_resumed_exactly(run, uninterrupted)


def test_xla_resumes_to_the_same_bits(tmp_path):
    loop = Loop(steps_per_call=4, checkpoint_interval=5, evaluation_epochs=2)
    expected = Run(tmp_path / "expected", loop)
    expected.train(TinyAgent())
    on_prepare, evaluate = at(("prepare", "second", 6), stop)
    run = Run(tmp_path / "resumed", loop)
    with pytest.raises(Interrupted):
        run.train(TinyAgent(on_prepare=on_prepare), evaluate)
    run.train(TinyAgent())
    assert run.metrics == expected.metrics
    assert_same_bits(load_file(run.newest_checkpoint()), load_file(expected.newest_checkpoint()))


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_says_where_and_by_what(tmp_path, by):
    on_prepare, evaluate = at(("prepare", "second", 6), lambda: stop(by))
    with pytest.raises(Interrupted, match=r"^second step 8$") as interruption:
        Run(tmp_path).train(TinyAgent(on_prepare=on_prepare), evaluate)
    assert interruption.value.signal_number == by


def test_a_stop_while_a_stage_is_put_away_is_heeded(tmp_path, uninterrupted, monkeypatch):
    store = StageCache.store

    def store_and_stop(cache, stages, index, report):
        store(cache, stages, index, report)
        stop()

    run = Run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(StageCache, "store", store_and_stop)
        with pytest.raises(Interrupted, match="the end of first"):
            run.train(TinyAgent())
        with pytest.raises(Interrupted, match="the end of second"):
            run.train(TinyAgent())
    assert_resumed_exactly(run, uninterrupted)


def test_a_second_signal_waits_for_the_save_like_the_first(tmp_path, uninterrupted):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        on_prepare, evaluate = at(("prepare", "second", 6), lambda: (stop(), stop()))
        run = Run(tmp_path)
        with pytest.raises(Interrupted):
            run.train(TinyAgent(on_prepare=on_prepare), evaluate)
        assert received == []
        stop()
        assert received == [signal.SIGTERM]  # the handler from before is back
    finally:
        signal.signal(signal.SIGTERM, before)
    assert_resumed_exactly(run, uninterrupted)


def test_a_second_signal_within_the_save_does_not_lose_it(tmp_path, uninterrupted, monkeypatch):
    """It comes when the checkpoint's temporary file is written and not renamed yet."""
    on_prepare, evaluate = at(("prepare", "second", 6), stop)
    written_atomically, run = files.written_atomically, Run(tmp_path)

    @contextlib.contextmanager
    def write_and_stop(path):
        with written_atomically(path) as temporary:
            yield temporary
            if path.name == "1-000000008.safetensors":
                stop()

    with monkeypatch.context() as patch:
        patch.setattr(files, "written_atomically", write_and_stop)
        with pytest.raises(Interrupted, match="second step 8"):
            run.train(interrupted := TinyAgent(on_prepare=on_prepare), evaluate)
    assert run.newest_checkpoint().name == "1-000000008.safetensors"
    assert_same_bits(load_file(run.newest_checkpoint()), values(interrupted))
    assert_resumed_exactly(run, uninterrupted)


def test_a_finished_run_is_left_as_it_is(uninterrupted):
    run, expected = uninterrupted
    before, agent = run.metrics, TinyAgent()
    run.train(agent)
    assert agent.updates == {"first": 0, "second": 0} and agent.prepare_calls == []
    assert_same_bits(values(agent), values(expected))
    assert run.metrics == before


def warned_agent() -> TinyAgent:
    """Its first stage warns in the epoch from step 6 on and, of one topic, after each epoch."""
    agent = TinyAgent()
    first, second = agent.stages()
    prepare = first.prepare

    def prepare_and_warn(dataset, step, seed):
        prepare(dataset, step, seed)
        return Preparation(["a hard epoch"] if step == 6 else [], {"prepared": float(step)})

    object.__setattr__(first, "prepare", prepare_and_warn)
    object.__setattr__(first, "watch", lambda dataset, step, metrics: {"count": f"count {metrics['count']:g}"})
    agent.stages = lambda: (first, second)
    return agent


WARNED = [("first", "count", "first step 6: count 5.5"), ("first", "", "first: a hard epoch")]


def test_a_stage_computed_by_an_equal_run_is_reused(tmp_path, capsys):
    """Byte for byte as if it had been trained: metrics, TensorBoard, warnings, every checkpoint."""
    trained, reusing = Run(tmp_path / "trained"), Run(tmp_path / "reusing")
    first, agent = warned_agent(), warned_agent()
    trained.train(first)
    reusing.cache = trained.cache
    reusing.train(agent)
    assert agent.updates == {"first": 0, "second": 1}
    assert "first: 13 steps reused" in capsys.readouterr().out
    assert_same_bits(values(agent), values(first))
    assert reusing.metrics == trained.metrics
    assert "\nfirst,13,count,13.0\n" in reusing.metrics.decode()
    assert events(reusing.directory) == events(trained.directory) != []
    checkpoints = [sorted((run.directory / "checkpoints").iterdir()) for run in (trained, reusing)]
    assert [path.name for path in checkpoints[0]] == [path.name for path in checkpoints[1]]
    for one, other in zip(*checkpoints, strict=True):
        assert_same_bits(load_file(one), load_file(other))
    for run in (trained, reusing):
        record = RunRecord(run.directory)
        record.restore(state_of(TinyAgent()))
        assert record.warnings == WARNED


@pytest.mark.parametrize("place", ["before the rows", "after the rows", "after the checkpoint"])
def test_a_run_killed_while_it_reuses_a_stage_goes_on_to_the_same_bits(tmp_path, uninterrupted, monkeypatch, place):
    run = Run(tmp_path)
    run.cache = uninterrupted[0].cache
    repeat, save = RunRecord.repeat, RunRecord.save

    def repeat_and_crash(record, report):
        if place == "before the rows":
            crash()
        repeat(record, report)
        if place == "after the rows":
            crash()

    def save_and_crash(record, variables, position):
        save(record, variables, position)
        crash()

    with monkeypatch.context() as patch:
        patch.setattr(RunRecord, "repeat", repeat_and_crash)
        patch.setattr(RunRecord, "save", save_and_crash)
        with pytest.raises(CrashError):
            run.train(TinyAgent())
    resumed = TinyAgent()
    run.train(resumed)
    assert resumed.updates["first"] == 0
    assert_same_bits(values(resumed), values(uninterrupted[1]))
    assert run.metrics == uninterrupted[0].metrics


def test_a_run_resumed_within_a_stage_keeps_all_of_its_rows_and_warnings_for_others(tmp_path):
    """The process that finishes the stage did not write its first rows."""
    run, other = Run(tmp_path), Run(tmp_path / "other")
    interrupted, agent = warned_agent(), warned_agent()
    interrupted._on_prepare = lambda stage, step: stop() if (stage, step) == ("first", 6) else None
    with pytest.raises(Interrupted):
        run.train(interrupted)
    run.train(agent)
    other.cache = run.cache
    other.train(warned_agent())
    assert other.metrics == run.metrics
    record = RunRecord(other.directory)
    record.restore(state_of(agent))
    assert record.warnings == WARNED


def test_evaluations_are_not_handed_on(tmp_path):
    """A stage that one run evaluated, and another, without an environment, need not."""
    evaluated, without = Run(tmp_path), Run(tmp_path / "without")
    without.cache = evaluated.cache
    for run, evaluate in ((evaluated, lambda: {"return_mean": 1.0}), (without, None)):
        agent = TinyAgent()
        first, second = agent.stages()
        object.__setattr__(first, "evaluate", True)
        agent.stages = lambda stages=(first, second): stages
        run.train(agent, evaluate)
    assert agent.updates["first"] == 0
    rows = [line for line in evaluated.metrics.decode().splitlines() if ",evaluation/" not in line]
    assert without.metrics.decode().splitlines() == rows


def test_a_stage_that_is_evaluated_on_the_way_is_not_taken_from_another_run(tmp_path):
    """Its evaluations, at 12 and at the end, belong to the run as much as its variables."""
    for name in ("one", "other"):
        agent = TinyAgent()
        first, second = agent.stages()
        object.__setattr__(first, "evaluate", True)
        agent.stages = lambda stages=(first, second): stages
        run = Run(tmp_path)
        run.directory = tmp_path / name
        run.train(agent)
        assert run.rows("first", "evaluation/return_mean") == {12: 1.0, 13: 1.0}


# Stages that end early ----------------------------------------------------------------------------------------------


class Ending(TinyAgent):
    """Its first stage of up to 30 steps has enough before the third epoch, and concludes by moving `weight`."""

    def __init__(self, on_call=lambda what, step: None, **more) -> None:
        super().__init__(steps=(30, 22), **more)
        self._on_call, self.concluded = on_call, []

    def stages(self):
        first, second = super().stages()
        return dataclasses.replace(first, prepare=self._enough, conclude=self._conclude), second

    def _enough(self, dataset, step, seed):
        self._on_call("enough", step)
        return self._prepare("first", step, seed)._replace(metrics={"asked": float(step)}, finished=step == 12)

    def _conclude(self, dataset, step, seed):
        self._on_call("conclude", step)
        self.concluded.append(step)
        self.weight.assign(2.0 * self.weight + standard_normal([], seed))
        return Preparation(["that is all"], {"concluded": float(step)})


def test_a_stage_ends_where_its_preparation_says_and_is_concluded_once(tmp_path, caplog):
    agent, run = Ending(), Run(tmp_path)
    with caplog.at_level(logging.WARNING):
        run.train(agent)
    assert list(run.rows("first", "count")) == [4, 6, 8, 12] and list(run.rows("second", "count"))[-1] == 22
    assert run.rows("first", "asked") == {0: 0, 6: 6, 12: 12} and run.rows("first", "concluded") == {12: 12}
    assert agent.concluded == [12] and caplog.text.count("first: that is all") == 1


def test_a_stage_that_is_not_ended_is_concluded_after_its_last_step(tmp_path):
    agent, run = Ending(), Run(tmp_path)
    agent._enough = lambda dataset, step, seed: Preparation()
    run.train(agent)
    assert agent.concluded == [30] and list(run.rows("first", "count"))[-1] == 30


def test_an_early_end_is_reused_with_what_concluded_it(tmp_path, capsys):
    runs, agents = [Run(tmp_path), Run(tmp_path)], [Ending(), Ending()]
    runs[1].directory = tmp_path / "other"
    for run, agent in zip(runs, agents, strict=True):
        run.train(agent)
    assert agents[1].updates["first"] == 0 and agents[1].concluded == []
    assert "first: 12 steps reused" in capsys.readouterr().out
    assert_same_bits(values(agents[0]), values(agents[1]))
    assert runs[0].metrics == runs[1].metrics


@pytest.mark.parametrize("moment", [("enough", 6), ("enough", 12), ("conclude", 12)], ids=str)
@pytest.mark.parametrize("act", ["stop", "crash"])
def test_an_early_end_survives_any_interruption(tmp_path, moment, act):
    expected, whole = Run(tmp_path / "whole"), Ending()
    expected.train(whole)
    run = Run(tmp_path / "cut")

    def on_call(*what):
        if what == moment:
            {"stop": stop, "crash": crash}[act]()

    with pytest.raises((Interrupted, CrashError)):
        run.train(Ending(on_call))
    resumed = Ending()
    run.train(resumed)
    assert_same_bits(values(resumed), values(whole))
    assert run.metrics == expected.metrics


# Numbers that are not finite -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compiled", [False, True])
def test_a_metric_that_is_not_finite_stops_training(tmp_path, compiled):
    """The 15th step of the second stage breaks: in the call of steps 13 to 16, after the checkpoint at 12."""
    run = Run(tmp_path, Loop(steps_per_call=4, checkpoint_interval=5, compiled=compiled))
    with pytest.raises(UserError, match="second: first_entry, fragile, second/000 not finite between steps 12 and 16"):
        run.train(TinyAgent(break_at=15))
    newest = run.newest_checkpoint()
    assert newest.name == "1-000000012.safetensors"
    assert all(np.isfinite(array).all() for array in load_file(newest).values())
    assert max(run.rows("second", "count")) == 12


def test_variables_broken_behind_finite_metrics_are_not_saved(tmp_path):
    agent = TinyAgent()

    def poison(stage, step):
        if (stage, step) == ("second", 12):
            agent.prepared.assign(np.nan)

    agent._on_prepare = poison
    first, second = agent.stages()
    update = second.update
    object.__setattr__(second, "update", lambda *given: {"count": update(*given)["count"]})
    agent.stages = lambda: (first, second)
    run = Run(tmp_path)
    with pytest.raises(UserError, match=r"second: second/000, second/002 not finite between steps 12 and 16"):
        run.train(agent)
    assert run.newest_checkpoint().name == "1-000000012.safetensors"
    assert all(np.isfinite(array).all() for array in load_file(run.newest_checkpoint()).values())
