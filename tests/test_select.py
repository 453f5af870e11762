"""Choosing without a simulator: the rule by hand, the bandit on arms whose returns are known, and the whole command."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import tiny

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments.tasks import find_task
from brac_plus_tf.estimation import episodes, selection
from brac_plus_tf.estimation.bandit import Pulled, choose_by_episodes, upper_bound
from brac_plus_tf.estimation.finished_run import Question
from brac_plus_tf.estimation.selection import (
    Candidate,
    Choice,
    Judged,
    candidates_of,
    choose,
    judge_candidate,
    table_rows,
)
from brac_plus_tf.policies.saved_policy import LoadedPolicy
from brac_plus_tf.runs.metrics_log import read_metrics

# The rule -------------------------------------------------------------------------------------------------------------


def judged(name, mean, half_width, threshold=None, distance=0.5, reliable=True):
    judgement = {"estimate": {"mean": mean, "half_width": half_width}, "distance": distance, "reliable": reliable}
    judgement |= {"verdict": "better than the data" if reliable else "not reliable on this data", "action": "mean"}
    has = threshold is not None
    return Judged(
        Candidate(name, tiny.CONFIGS / name, tiny.CONFIGS / name / "saved_model"),
        judgement,
        0.9 * threshold if has else None,
        threshold,
        0.25 if has else None,
    )


@pytest.mark.parametrize(("step", "expected"), [(None, 2.0), (4, 2.0), (3, 1.0), (1, None)])
def test_a_candidates_divergence_is_of_its_own_steps_in_the_main_stage(tmp_path, monkeypatch, step, expected):
    monkeypatch.setattr(selection, "estimate_run", lambda *given: {})
    rows = ["initial_policy,1,divergence_mean,9.0", "main,2,divergence_mean,1.0", "main,4,divergence_mean,2.0"]
    (tmp_path / "metrics.csv").write_text("\n".join(["stage,step,metric,value", *rows]) + "\n")
    candidate = Candidate("one", tmp_path, tmp_path / "policy", step)
    assert judge_candidate(candidate, Question()).divergence == expected


def test_the_highest_lower_bound_wins_where_intervals_are_apart():
    """7 +- 1 lies above 5 +- 0.9; a mean of 9 that may be 3 does not win by its mean, but its interval reaches in."""
    apart = [judged("low", 5.0, 0.9, 0.5), judged("high", 7.0, 1.0, 4.0)]
    choice = choose(apart)
    assert (choice.chosen, choice.reliable) == (1, True) and "above all others" in choice.why
    unsure = [judged("low", 5.0, 0.9, 0.5), judged("high", 7.0, 1.0, 4.0), judged("unsure", 9.0, 6.0, 8.0)]
    assert choose(unsure).chosen == 1  # of it and the unsure one, the smaller threshold


def test_of_those_not_told_apart_the_smallest_threshold_wins():
    many = [
        judged("a", 7.0, 1.0, 4.0),
        judged("b", 6.0, 1.0, 1.0),
        judged("c", 6.5, 1.0, 2.0),
        judged("d", 3.0, 1.0, 0.5),
    ]
    choice = choose(many)
    assert choice.chosen == 1 and "of 3 that estimates do not tell apart it has the smallest threshold" in choice.why


def test_without_thresholds_the_actions_nearest_to_the_datas():
    """One candidate without a threshold is enough: nats of one agent are not another's."""
    many = [judged("a", 7.0, 1.0, 0.1, distance=0.4), judged("b", 6.5, 1.0, None, distance=0.2)]
    choice = choose(many)
    assert choice.chosen == 1 and "actions nearest" in choice.why


def test_what_is_not_reliable_does_not_count():
    many = [judged("a", 90.0, 1.0, 4.0, reliable=False), judged("b", 6.0, 1.0, 8.0), judged("c", 5.5, 1.0, 9.0)]
    choice = choose(many)
    assert choice.chosen == 1 and "1 not reliable and left out" in choice.why


def test_where_nothing_is_reliable_the_nearest_is_taken_and_it_is_said():
    many = [judged("a", 90.0, 1.0, 4.0, reliable=False), judged("b", 6.0, 1.0, 0.5, reliable=False)]
    assert choose(many) == Choice(1, False, "no estimate is reliable on this data: it has the smallest threshold")
    assert choose(many[:1]).chosen == 0


def test_a_row_for_each_candidate():
    header, first, second = table_rows([judged("a", 7.0, 1.0, 4.0), judged("b", 6.0, 1.5)], Choice(0, True, ""))
    path = str(tiny.CONFIGS)
    assert len(header) == len(first) == 8
    assert first == ["*", "a", "7 +- 1", "3.6", "4", "25%", "0.5", "better than the data"]
    assert second == ["", "b", "6 +- 1.5", "-", "-", "-", "0.5", "better than the data"] and path
    played = Pulled(np.array([3, 7]), np.array([1.0, 2.5]), 1)
    assert table_rows([judged("a", 7.0, 1.0), judged("b", 6.0, 1.5)], Choice(1, True, ""), played)[2][-2:] == [
        "7",
        "2.5",
    ]


# The bandit -----------------------------------------------------------------------------------------------------------


def test_the_upper_bound_by_hand():
    """alpha 2: 5 + 4 sqrt(2 ln 8 / (2 * 2)) = 5 + 4 sqrt(ln(8) / 2)."""
    assert upper_bound(5.0, 2.0, 8.0, 4.0) == pytest.approx(5.0 + 4.0 * math.sqrt(math.log(8.0) / 2.0))


def test_each_is_played_once_first_in_the_order_of_the_estimates():
    calls = []

    def play(arm, number):
        calls.append((arm, number))
        return float(arm)

    pulled = choose_by_episodes(play, [1.0, 3.0, 2.0], 3)
    assert calls == [(1, 0), (2, 0), (0, 0)]
    np.testing.assert_array_equal(pulled.counts, [1, 1, 1])
    np.testing.assert_array_equal(pulled.means, [0.0, 1.0, 2.0])
    assert pulled.best == 2


def test_the_first_choice_after_that_by_hand():
    """Returns 0 and 10, estimates 2 and 1: in returns' units 5 + 5 and 5 - 5. Means with them 5 and 5, counts 2 and 2,
    spread 10: equal bounds, of which the first counts. With estimates 1 and 2 they are 0 and 10: the second."""
    for estimates, expected in (([2.0, 1.0], 0), ([1.0, 2.0], 1)):
        order = []
        choose_by_episodes(lambda arm, number, order=order: (order.append(arm), 10.0 * arm)[1], estimates, 3)
        assert order[2] == expected


def test_the_episodes_of_each_are_numbered():
    """Number n of each begins alike, so that two are compared from the same starts."""
    calls, generator = [], np.random.default_rng(0)
    choose_by_episodes(lambda arm, number: (calls.append((arm, number)), generator.random())[1], [1.0, 2.0], 40)
    for arm in (0, 1):
        numbers = [number for one, number in calls if one == arm]
        assert numbers == list(range(len(numbers))) and len(numbers) > 1


def test_it_finds_the_best_of_ten_and_spends_most_episodes_on_it():
    """Bernoulli arms of which one earns 0.9, others 0.3: in 200 episodes the best is played more often than all others
    in each of 20 repetitions, and it is the one that is taken. Equal numbers would have been 20 each."""
    for repetition in range(20):
        generator = np.random.default_rng(repetition)
        rates = np.full(10, 0.3)
        rates[repetition % 10] = 0.9
        pulled = choose_by_episodes(
            lambda arm, number, g=generator, r=rates: float(g.random() < r[arm]), np.zeros(10), 200
        )
        assert pulled.best == repetition % 10 and pulled.counts.sum() == 200
        assert pulled.counts[pulled.best] > 60


def test_a_good_estimate_saves_episodes():
    """The same arms: where the estimates name the best, it is played more often in the first 30 episodes than where
    they name the worst."""

    def share(estimates):
        counts = []
        for repetition in range(100):
            generator = np.random.default_rng(repetition)
            rates = np.linspace(0.2, 0.8, 8)
            pulled = choose_by_episodes(
                lambda arm, number, g=generator, r=rates: float(g.random() < r[arm]), estimates, 30
            )
            counts.append(pulled.counts[7])
        return counts

    good, bad = share(np.arange(8.0)), share(-np.arange(8.0))
    assert scipy.stats.mannwhitneyu(good, bad, alternative="greater").pvalue < 1e-3


# The command ----------------------------------------------------------------------------------------------------------

TINY = (
    *(
        "behavior/Fit.steps = 4",
        "initial_policy/Fit.steps = 4",
        "initial_critic/Fit.steps = 4",
        "Improvement.epochs = 2",
    ),
    *("Improvement.steps_per_epoch = 4", "Improvement.batch_size = 8", "Actor.hidden_sizes = (8,)"),
    *("VAEEnsemble.hidden_sizes = (8,)", "Critic.hidden_sizes = (8,)", "StateMultiplier.hidden_sizes = (8,)"),
    *("Loop.compiled = False", "Loop.snapshot_epochs = 1"),
)
ESTIMATE = (
    *("FittedQ.steps = 20", "FittedQ.looks = 20", "FittedQ.hidden_sizes = (8,)", "FittedQ.batch_size = 8"),
    *("clone/Fit.steps = 5", "clone/Actor.hidden_sizes = (8,)", "Loop.compiled = False"),
)
BINDINGS = [f"--gin_bindings={binding}" for binding in TINY] + [
    f"--estimate_bindings={binding}" for binding in ESTIMATE
]


@pytest.fixture(scope="module")
def selected(tmp_path_factory):
    """Thresholds trained and chosen from, from an HDF5 file and no environment."""
    folder = tmp_path_factory.mktemp("selected")
    data = tiny.write_hopper_dataset(folder / "hopper.hdf5")
    given = [f"--dataset={data}", "--env=none", f"--root_dir={folder / 'runs'}", f"--output={folder / 'first'}"]
    bounds = [f"--{kind}_bindings=load_dataset.action_{end} = {value}" for kind in ("gin",) for end, value in LIMITS]
    done = tiny.run_here("select", "--thresholds=0.5,2", *given, *bounds, *BINDINGS)
    return folder, data, done


LIMITS = (("low", -1.0), ("high", 1.0))


def test_from_a_file_to_an_exported_policy_in_one_command(selected):
    folder, _, done = selected
    assert done.status == 0, done.stderr
    content = json.loads((folder / "first" / "selection.json").read_text())
    names = [candidate["name"] for candidate in content["candidates"]]
    assert [name.split("margin_")[1] for name in names] == ["0.5/0", "2/0"]
    thresholds = [candidate["threshold"] for candidate in content["candidates"]]
    assert thresholds[1] - thresholds[0] == pytest.approx(1.5, abs=0.02)  # float32, of some 1e5
    # after a few steps nothing is known, and the smaller threshold is taken
    assert content["chosen"] == names[0] and content["episodes"] == 0
    assert content["reliable"] == any(candidate["reliable"] for candidate in content["candidates"])
    assert f"chosen: {names[0]}: " in done.stdout and "the smallest threshold" in done.stdout
    observation = np.ones((1, 11), np.float32)
    policies = [LoadedPolicy(path) for path in (folder / "first" / "policy", f"{names[0]}/saved_model")]
    np.testing.assert_array_equal(*(policy.act(observation) for policy in policies))
    assert done.stdout.splitlines()[-1] == f"results: {folder / 'first'}"
    # stages 1 to 3 were learned once, the data's own part of the estimates, too
    assert len(list((folder / "runs" / "stage_cache").glob("initial_critic-*"))) == 1
    assert len(list((folder / "runs" / "stage_cache").glob("clone_value-*"))) == 1


def runs_of(folder):
    return sorted((folder / "runs" / "hopper").glob("*/0"))


def test_snapshots_are_candidates(selected):
    folder, data, _ = selected
    run = runs_of(folder)[0]
    snapshots = sorted((run / "snapshots").iterdir())
    assert [snapshot.name for snapshot in snapshots] == ["00000004", "00000008"]
    first, last = candidates_of([snapshots[0], run], same_data=True)
    assert (first.step, first.run, first.policy) == (4, run, snapshots[0]) and last.step is None
    output = folder / "second"
    runs = f"--runs={snapshots[0]},{run}"
    done = tiny.run_here("select", runs, f"--dataset={data}", f"--output={output}", *BINDINGS[len(TINY) :])
    assert done.status == 0, done.stderr
    content = json.loads((output / "selection.json").read_text())
    assert [candidate["step"] for candidate in content["candidates"]] == [4, None]
    estimates = [candidate["estimate"]["mean"] for candidate in content["candidates"]]
    assert estimates[0] != estimates[1]
    # what is told of its divergence is of its own step
    measured = [row.value for row in read_metrics(run) if (row.stage, row.metric) == ("main", "divergence_mean")]
    assert [candidate["divergence"] for candidate in content["candidates"]] == measured and len(measured) == 2


def test_a_chosen_snapshot_is_what_is_exported(selected):
    folder, data, _ = selected
    run, output = runs_of(folder)[0], folder / "of a snapshot"
    snapshot = run / "snapshots" / "00000004"
    done = tiny.run_here(
        "select", f"--runs={snapshot}", f"--dataset={data}", f"--output={output}", *BINDINGS[len(TINY) :]
    )
    assert done.status == 0, done.stderr
    observation = np.random.default_rng(0).normal(size=(9, 11)).astype(np.float32)
    paths = (output / "policy", snapshot, run / "saved_model")
    exported, expected, last = (LoadedPolicy(path).act(observation) for path in paths)
    np.testing.assert_array_equal(exported, expected)
    assert not np.array_equal(exported, last)


def test_episode_number_n_of_each_candidate_begins_alike(monkeypatch):
    """So that candidates are compared where they begin alike, each time somewhere else."""
    seeds = {0.0: [], 1.0: []}

    def play(way, count, seed):
        seeds[way].append(tuple(np.asarray(seed).ravel()))
        return SimpleNamespace(returns=[way + 2.0 * (len(seeds[way]) % 2)] * count)

    class Played:
        """A policy whose candidate's name says what it is worth, give or take 2 by episode."""

        def __init__(self, path) -> None:
            self.quality = float(path.parent.name)

        def check_fits(self, task) -> None:
            del task

        def way(self, action) -> float:
            del action
            return self.quality

    monkeypatch.setattr(episodes, "LoadedPolicy", Played)
    monkeypatch.setattr(episodes, "Evaluator", lambda make, horizon: SimpleNamespace(run=play))
    candidates = [judged("0.0", 0.0, 1.0), judged("1.0", 0.0, 1.0)]
    choice, _ = episodes.choose_by_playing(candidates, find_task("Hopper-v4", 10), 12, seed=3)
    fewer, more = sorted(seeds.values(), key=len)
    assert choice.chosen == 1 and len(fewer) + len(more) == 12
    assert more[: len(fewer)] == fewer and len(fewer) >= 2 and len(set(more)) == len(more)


@pytest.mark.parametrize("asked", [5, 1])
def test_real_episodes_decide_and_are_counted(selected, asked):
    folder, data, _ = selected
    candidates = runs_of(folder)
    runs, output = ",".join(map(str, candidates)), folder / f"by {asked}"
    flags = ["--env=Hopper-v4", "--horizon=10", f"--episodes={asked}", f"--output={output}", f"--dataset={data}"]
    done = tiny.run_here("select", f"--runs={runs}", *flags, *BINDINGS[len(TINY) :])
    assert done.status == 0, done.stderr
    content = json.loads((output / "selection.json").read_text())
    played = [candidate["episodes_played"]["episodes"] for candidate in content["candidates"]]
    count = max(asked, len(candidates))  # one of each at least
    assert content["episodes"] == sum(played) == count and min(played) >= 1
    chosen = [candidate["name"] for candidate in content["candidates"]].index(content["chosen"])
    assert played[chosen] == max(played) and f"{played[chosen]} of {count} real episodes" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "either --runs, or --thresholds"),
        (["--runs=a", "--thresholds=1"], "either --runs, or --thresholds"),
        (["--thresholds=1"], "--thresholds needs --dataset"),
        (["--thresholds=one", "--dataset=a.hdf5"], "'one' is not a number"),
        (["--runs=a", "--episodes=3"], "--episodes needs --env"),
        (["--runs=absent"], "no saved_model"),
    ],
)
def test_what_cannot_be_chosen_from_is_refused(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    done = tiny.run_here("select", *flags)
    assert done.status == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_runs_on_different_data_need_a_common_judge(selected, tmp_path):
    folder, _, _ = selected
    run = runs_of(folder)[0]
    other = tmp_path / "other"
    (other / "saved_model").mkdir(parents=True)
    facts = json.loads((run / "run.json").read_text())
    facts["dataset"]["sha256"] = "another"
    (other / "run.json").write_text(json.dumps(facts))
    with pytest.raises(UserError, match="not learned from the same data; name some by --dataset"):
        candidates_of([run, other], same_data=True)
    assert len(candidates_of([run, other], same_data=False)) == 2
    with pytest.raises(UserError, match="name each run once"):
        candidates_of([run, run], same_data=True)


def test_an_output_that_has_a_policy_is_not_overwritten(selected):
    folder, _, _ = selected
    done = tiny.run_here("select", "--runs=a", f"--output={folder / 'first'}")
    assert done.status == 1 and "there is a policy already" in done.stderr
