"""The compare command: which files configure an agent, what it trains, what it leaves alone, how it stops."""

import csv
import os
import pathlib
import signal
import sys
import time

import pytest
import tiny
from processes import CORES, ForkedProcess, Outcome, finish_process, start_process
from tiny import CONFIGS

from brac_plus_tf.comparison.engines import LocalEngine, core_shares
from brac_plus_tf.comparison.plan import Study, check_comparable, gin_files, plan
from brac_plus_tf.comparison.records import Cell
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.experiment import Experiment

TINY = """
Actor.hidden_sizes = (8,)
Critic.hidden_sizes = (8,)
Training.epochs = 4
Training.steps_per_epoch = 20
Training.batch_size = 8
behavior/Actor.hidden_sizes = (8,)
behavior/Fit.steps = 40
behavior/Fit.batch_size = 8
Cloning.epoch_steps = 20
Experiment.evaluation_episodes = 2
Experiment.final_episodes = 3
Loop.evaluation_epochs = 2
Loop.steps_per_call = 10
Loop.checkpoint_interval = 20
Loop.compiled = False
"""


def files(agent: str, dataset: str, *more: str) -> list[str]:
    return [str(pathlib.Path(file).relative_to(CONFIGS)) for file in gin_files(agent, dataset.split("+"), more)]


@pytest.mark.parametrize(
    ("agent", "dataset", "expected"),
    [
        ("bc", "hopper-medium-v0", "bc/base.gin"),
        ("brac_plus", "hopper-medium-replay-v2", "brac_plus/hopper_medium_replay.gin"),
        ("brac_plus", "data/hopper-medium-replay.hdf5", "brac_plus/base.gin"),
        ("bear", "data/hopper-medium.hdf5", "bear/base.gin"),
        ("bear", "data/halfcheetah-medium.hdf5", "bear/halfcheetah.gin"),
        ("bear", "halfcheetah-medium-v0", "bear/halfcheetah.gin"),
        ("bear", "minari:halfcheetah/medium-v0", "bear/halfcheetah.gin"),
        ("brac_plus", "minari:hopper/medium-replay-v0", "brac_plus/base.gin"),
        ("cql/rho", "hopper-medium-v0", "cql/rho.gin"),
        ("brac_plus", "hopper-medium-v0+hopper-expert.hdf5", "brac_plus/base.gin"),
    ],
)
def test_an_agents_own_file(agent, dataset, expected):
    assert files(agent, dataset) == [expected]


def test_further_files_are_the_folders_or_paths(tmp_path):
    (tmp_path / "mine.gin").write_text("")
    more = ["short_protocol.gin", str(tmp_path / "mine.gin")]
    assert gin_files("cql/rho", ["d.hdf5"], more) == [
        str(CONFIGS / "cql" / "rho.gin"),
        str(CONFIGS / "cql" / "short_protocol.gin"),
        str(tmp_path / "mine.gin"),
    ]


@pytest.mark.parametrize(
    ("agent", "more", "message"),
    [
        ("brak", [], r"--agents: no gin file brak/base.gin; agents are bc, bcq, bear, brac_p"),
        ("cql/tho", [], r"--agents: no gin file cql/tho.gin"),
        ("", [], r"--agents: no gin file /base.gin"),
        ("bc", ["shrot.gin"], r"gin file shrot.gin: .* did you mean .*/short.gin"),
    ],
)
def test_unknown_agents_and_files_are_refused(agent, more, message):
    with pytest.raises(UserError, match=message):
        gin_files(agent, ["d.hdf5"], more)


def test_an_agent_of_the_users_is_a_folder_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    for name in ("base.gin", "short.gin"):
        (tmp_path / "mine" / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert gin_files("mine", ["d.hdf5"], ["short.gin"]) == ["mine/base.gin", "mine/short.gin"]
    assert gin_files("mine/short", ["d.hdf5"], ["sac/base.gin"]) == ["mine/short.gin", str(CONFIGS / "sac/base.gin")]


def test_every_agent_has_a_short_protocol_that_parses_on_top_of_each_of_its_files():
    folders = sorted(path.parent for path in CONFIGS.glob("*/base.gin") if path.parent.name != "brac_plus_acml")
    assert len(folders) >= 9
    for folder in folders:
        for own in folder.glob("*.gin"):
            if "short" not in own.name and own.name != "online.gin":  # which is for train_online
                configuration.parse([str(own), str(folder / "short_protocol.gin")], ["Experiment.dataset = 'd.hdf5'"])


def test_the_plan_gives_every_variant_a_directory_of_its_own():
    root, datasets = pathlib.Path("runs"), [("a.hdf5", "b.hdf5"), ("c.hdf5",)]
    study = Study(("cql", "cql/rho"), (), (0, 1), ("short_protocol.gin",), ("Critic.tau = 0.1",))
    cells = plan(study, datasets, root)
    assert len({cell.directory for cell in cells}) == len(cells) == 8
    assert str(cells[1].directory) == "runs/a+b/cql_rho_short_protocol/0"
    dataset, name = "Experiment.dataset = ('a.hdf5', 'b.hdf5')", "Experiment.agent_name = 'cql_rho_short_protocol'"
    assert cells[1].bindings == (dataset, name, "Critic.tau = 0.1")
    study = Study(("cql",), (), (0,), (), ("Experiment.final_episodes = 7",))
    cells = plan(study, datasets, root, smoke_run=True)
    assert str(cells[1].directory) == "runs/c/cql-smoke/0"
    experiment = configuration.build(Experiment, cells[1].gin_files, cells[1].bindings)
    assert (experiment.smoke, experiment.run_name, experiment.final_episodes) == (True, "cql-smoke", 7)


def test_a_grid_is_all_combinations_each_a_run_of_its_own():
    grid = ("Critic.tau = 0.1, 0.2", "behavior/Actor.hidden_sizes=(8, 8),[4]")
    cells = plan(
        Study(("cql/rho",), (), (3,), ("short_protocol.gin",), ("Critic.gamma = 0.9",), grid),
        [["c.hdf5"]],
        pathlib.Path("r"),
    )
    assert [cell.agent for cell in cells] == [
        f"cql/rho tau={tau} hidden_sizes={sizes}" for tau in ("0.1", "0.2") for sizes in ("(8, 8)", "[4]")
    ]
    assert cells[1].bindings[2:] == ("Critic.gamma = 0.9", "Critic.tau = 0.1", "behavior/Actor.hidden_sizes = [4]")
    assert str(cells[1].directory) == "r/c/cql_rho_short_protocol_tau_0.1_hidden_sizes__4_/3"
    assert len({cell.directory for cell in cells}) == 4
    assert cells[1].bindings[1] == "Experiment.agent_name = 'cql_rho_short_protocol_tau_0.1_hidden_sizes__4_'"


@pytest.mark.parametrize("grid", ["tau=1,2", "Critic.tau", "Critic.tau=", "Critic.tau=1,2,1", "Critic.tau 1=2"])
def test_a_grid_of_another_form_is_refused(grid):
    with pytest.raises(UserError, match=r"--grid=.*: give Name\.parameter=value,value with different values"):
        plan(Study(("bc",), (), (0,), grid=(grid,)), [["d.hdf5"]], pathlib.Path())


def configured(dataset: str, agent: str = "bc", seed: int = 0, *bindings: str) -> Cell:
    """A run of the comparison; its directory does not matter before it is trained."""
    data = (f"Experiment.dataset = ({dataset!r},)", f"Experiment.agent_name = {agent!r}")
    label = pathlib.Path(dataset).stem
    files = (str(CONFIGS / agent / "base.gin"),)
    return Cell(agent, label, seed, pathlib.Path("absent"), files, (*data, *bindings))


def test_what_cannot_be_compared_is_refused_before_it_is_trained(tmp_path):
    hopper = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    unknown = tiny.write_hopper_dataset(tmp_path / "unknown.hdf5", env_id=None)
    good = [configured(hopper, agent, seed) for agent in ("bc", "sac") for seed in (0, 1)]
    check_comparable(good)
    check_comparable([*good, configured(unknown, "bc", 0, "Experiment.environment = 'Hopper-v4'")])
    for wrong, message in (
        (
            configured(hopper, "cql", 0, "Experiment.environment = 'none'"),
            "cql on hopper would have an estimate, bc on hopper a score: compare them apart",
        ),
        (configured(unknown), "bc on unknown would have an estimate, bc on hopper a score"),
        (
            configured(hopper, "cql", 0, "Experiment.final_episodes = 7"),
            "cql on hopper: Experiment.final_episodes is 7, for bc on hopper it is 100",
        ),
        (
            configured(hopper, "cql", 0, "Experiment.environment = 'hopper-medium-v0'"),
            r"cql on hopper: Experiment.environment is hopper-medium-v0 \(gymnasium\), for bc",
        ),
        (configured(str(tmp_path / "absent.hdf5"), "bc", 0, "Experiment.environment = 'Hopper-v4'"), "absent.hdf5"),
        (configured(hopper, "cql", 0, "CQL.wrong = 1"), "wrong"),
    ):
        with pytest.raises(UserError, match=message):
            check_comparable([*good, wrong])
    check_comparable([configured(unknown, agent) for agent in ("bc", "cql")])
    # a planner remembers its plan, which no recorded state says
    with pytest.raises(UserError, match=r"mbop on unknown: no environment is known, and .* remembers its episode"):
        check_comparable([configured(unknown, agent) for agent in ("bc", "mbop")])


def test_the_cores_are_dealt_out():
    assert core_shares([0, 1, 2, 5, 7], 2) == [[0, 2, 7], [1, 5]]
    assert core_shares([3], 1) == [[3]]
    with pytest.raises(UserError, match="--jobs=3: there are 2 cores, and"):
        core_shares([0, 1], 3)
    with pytest.raises(UserError, match="--jobs=2: there is 1 core, and"):
        core_shares([0], 2)


def test_a_run_is_started_on_its_cores_alone(tmp_path, monkeypatch):
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nimport os\nprint(sorted(os.sched_getaffinity(0)))\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    ours, log = os.sched_getaffinity(0), tmp_path / "new" / "log"
    engine = LocalEngine([[max(ours)]])
    training = engine.start([], tmp_path, log)
    while (status := training.poll()) is None:
        time.sleep(0.01)
    assert status == 0 and engine.has_room()
    assert (tmp_path / "new" / "log").read_text() == f"[{max(ours)}]\n"
    assert os.sched_getaffinity(0) == ours


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """--agents and the rest on a tiny dataset, but for --root_dir and --output."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "tiny.gin").write_text(TINY)
    dataset = tiny.write_hopper_dataset(folder / "hopper.hdf5")
    return [f"--datasets={dataset}", f"--gin_file={folder / 'tiny.gin'}", "--agents=bc,sac"]


def start(arguments, root: pathlib.Path, *more: str, process=ForkedProcess, **options):
    directories = (f"--root_dir={root}", f"--output={root / 'out'}")
    return process("brac_plus_tf.compare", *arguments, *directories, *more, cwd=root.parent, **options)


def compare(arguments, root: pathlib.Path, *more: str) -> Outcome:
    return finish_process(start(arguments, root, *more))


def metrics(root: pathlib.Path) -> dict[str, bytes]:
    names = ("metrics.csv", "evaluation.json")
    return {str(p.relative_to(root)): p.read_bytes() for name in names for p in sorted(root.glob(f"*/*/*/{name}"))}


@pytest.fixture(scope="module")
def compared(arguments, tmp_path_factory):
    """As a user starts it; the others have a warm start."""
    root = tmp_path_factory.mktemp("whole") / "runs"
    return root, finish_process(start(arguments, root, process=start_process))


def test_it_trains_every_run_and_writes_the_table(compared):
    root, outcome = compared
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.splitlines()[-1] == f"results: {root / 'out'}"
    with open(root / "out" / "scores.csv", newline="") as file:
        rows = {row["agent"]: row for row in csv.DictReader(file)}
    assert list(rows) == ["bc", "sac"]
    for agent, row in rows.items():
        assert row["run"] == str(root / "hopper" / f"{agent}_tiny" / "0")
    # BC and SAC saw the same episodes: as many, of the same starts
    assert (root / "out" / "table.md").read_text() in outcome.stdout
    assert {path.name for path in (root / "out").iterdir()} == {"table.md", "scores.csv", "curves.png", "profiles.png"}


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_two_at_a_time_end_the_same(compared, arguments, tmp_path):
    root = tmp_path / "runs"
    outcome = finish_process(start(arguments, root, "--jobs=2", cores=CORES))
    assert outcome.status == 0, outcome.stderr
    for agent, number in (("bc", 1), ("sac", 2)):
        log = root / "hopper" / f"{agent}_tiny" / "0.log"
        assert f"[{number}/2] {agent} on hopper, seed 0: training, see {log}" in outcome.stdout
        assert f"[{number}/2] {agent} on hopper, seed 0: done\n" in outcome.stdout
        assert log.read_text().splitlines()[-1].startswith("results: ")
    assert metrics(root) == metrics(compared[0])


def test_a_second_call_trains_nothing_and_a_changed_setting_is_not_passed_over(compared, arguments):
    root, _ = compared
    before = metrics(root)
    again = compare(arguments, root)
    assert again.status == 0 and again.stdout.count("done before") == 2 and "training" not in again.stdout
    changed = compare(arguments, root, "--gin_bindings=Experiment.final_episodes = 2")
    assert changed.status == 1
    assert changed.stderr.count("holds a run of another configuration") == 2
    assert changed.stderr.splitlines()[-1] == "error: every run failed; its message is above"
    assert metrics(root) == before


def test_a_kept_record_does_for_a_run_of_the_same_settings(compared, arguments, tmp_path):
    """Elsewhere, where the runs are not: the same table, and nothing is trained; other settings are."""
    root, first = compared
    records = tmp_path / "records"
    assert compare(arguments, root, f"--records={records}").status == 0
    assert {path.name for path in records.iterdir()} == {f"hopper__{agent}_tiny__0.json" for agent in ("bc", "sac")}
    assert all(path.stat().st_size < 10_000 for path in records.iterdir())
    again = compare(arguments, tmp_path / "elsewhere", f"--records={records}")
    assert again.status == 0 and again.stdout.count("done before") == 2, again.stderr
    table = (root / "out" / "table.md").read_text()
    assert (tmp_path / "elsewhere" / "out" / "table.md").read_text() == table and table in first.stdout
    (records / "hopper__sac_tiny__0.json").unlink()
    there = compare(arguments, tmp_path / "elsewhere", f"--records={records}", "--engine=none")
    assert there.status == 0 and "training" not in there.stdout and "| hopper |" in there.stdout, there.stderr
    assert there.stdout.splitlines()[-1] == "1 of 2 runs are not there; without --engine=none they are trained"
    none = compare(arguments, tmp_path / "elsewhere", f"--records={tmp_path / 'empty'}", "--engine=none")
    assert (none.status, none.stderr) == (1, "error: none of the runs is there\n")
    changed = compare(arguments, tmp_path / "elsewhere", f"--records={records}", "--agents=sac", "--seeds=1")
    assert changed.status == 0 and "training" in changed.stdout
    assert (records / "hopper__sac_tiny__1.json").exists()
    other = compare(arguments, tmp_path / "other", f"--records={records}", "--gin_bindings=Experiment.final_episodes=2")
    assert other.status == 1 and "hopper__bc_tiny__0.json: the record of a run with other settings" in other.stderr


def test_a_study_is_its_flags_in_a_file(compared, arguments, tmp_path):
    """The same runs, which are done; what the study says cannot be said twice."""
    root, _ = compared
    dataset = pathlib.Path(arguments[0].partition("=")[2])
    (tmp_path / "study.gin").write_text(
        f"Study.agents = ('bc', 'sac')\nStudy.datasets = ({dataset.name!r},)\nStudy.seeds = (0,)\n"
        f"Study.gin_files = ({str(dataset.parent / 'tiny.gin')!r},)\n"
    )
    study = [f"--study={tmp_path / 'study.gin'}", f"--data_dir={dataset.parent}"]
    again = compare(study, root)
    assert again.status == 0 and again.stdout.count("done before") == 2, again.stderr
    twice = compare([*study, "--seeds=1"], root)
    assert (twice.status, twice.stderr) == (1, "error: --seeds: the study says that; give --study without it\n")
    (tmp_path / "study.gin").write_text("Study.agent = ('bc',)\n")
    assert "doesn't have a parameter named 'agent'" in compare(study, root).stderr


def test_the_published_studies_can_be_planned():
    for path in sorted((tiny.PROJECT / "studies").glob("*.gin")):
        study = configuration.build(Study, [str(path)], [])
        cells = plan(study, [dataset.split("+") for dataset in study.datasets], pathlib.Path())
        assert len(cells) == len(study.agents) * len(study.datasets) * len(study.seeds) * len(study.variants) > 0


def test_one_failed_run_leaves_the_others_in_the_table(compared, arguments):
    root, _ = compared
    (root / "hopper" / "sac_tiny" / "1").mkdir(parents=True)
    (root / "hopper" / "sac_tiny" / "1" / "run.json").write_text("{}")  # a foreign run
    outcome = compare(["--seeds=1", *arguments], root)
    assert outcome.status == 1
    assert "error: 1 of 2 runs failed and are missing in the table" in outcome.stderr.splitlines()[-1]
    with open(root / "out" / "scores.csv", newline="") as file:
        assert [(row["agent"], row["seed"]) for row in csv.DictReader(file)] == [("bc", "1")]


def test_stopped_and_started_again_it_ends_the_same(compared, arguments, tmp_path):
    """By SIGTERM; that Ctrl-C is passed on likewise is test_stopping's and test_engines'."""
    root = tmp_path / "runs"
    process = start(arguments, root)
    second = root / "hopper" / "sac_tiny" / "0" / "metrics.csv"
    deadline = time.monotonic() + 900.0
    while not second.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stopped = finish_process(process)
    assert stopped.status == 128 + signal.SIGTERM, stopped.stderr
    assert "[2/2] sac on hopper, seed 0: stopped" in stopped.stdout and not (root / "out").exists()
    resumed = compare(arguments, root)
    assert resumed.status == 0 and resumed.stdout.count("done before") == 1
    whole = {
        name: content
        for name, content in metrics(compared[0]).items()
        if name.endswith(("0/metrics.csv", "0/evaluation.json"))
    }
    assert metrics(root) == whole


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--agents=bc,bc", "--agents: name each one once"),
        ("--seeds=0,a", "--seeds: 'a' is not a whole number"),
        ("--gin_bindings=Experiment.agent_name = 'x'", "are set by the comparison itself"),
        ("--gin_bindings=Trainning.epochs = 3", "Trainning"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_trained(arguments, tmp_path, flag, message):
    outcome = tiny.run_here("compare", *arguments, f"--root_dir={tmp_path / 'runs'}", flag)
    assert outcome.status == 1 and message in outcome.stderr and len(outcome.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def test_without_an_environment_the_estimates_are_compared(arguments, tmp_path):
    root = tmp_path / "runs"
    bindings = ["--smoke", "--gin_bindings=Experiment.environment = 'none'"]
    outcome = compare([*arguments, *bindings], root)
    assert outcome.status == 0, outcome.stderr
    table = (root / "out-smoke" / "table.md").read_text()
    assert table.startswith("Estimates, no simulator") and "+-" in table
    for agent in ("bc", "sac"):
        assert (root / "hopper" / f"{agent}_tiny-smoke" / "0" / "estimate" / "estimate.json").exists()
    assert compare([*arguments, *bindings], root).stdout.count("done before") == 2


def test_nothing_is_trained_where_nothing_could_be_judged(arguments, tmp_path):
    root = tmp_path / "runs"
    agents = ["--agents=bc,mbop", "--gin_bindings=Experiment.environment = 'none'"]
    outcome = compare([*arguments, *agents], root)
    assert outcome.status == 1 and outcome.stdout == ""
    (line,) = outcome.stderr.splitlines()[-1:]
    assert line.startswith("error: mbop on hopper: no environment is known, and the way to act")
    assert not root.exists()
