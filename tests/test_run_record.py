import fcntl
import json
import logging
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from tiny import events

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_json
from brac_plus_tf.runs.checkpoints import Position
from brac_plus_tf.runs.facts import host_facts, read_facts
from brac_plus_tf.runs.metrics_log import read_metrics
from brac_plus_tf.runs.run_record import RunRecord, StageReport, Warned

CONFIG = """
# Parameters for Critic:
# ==============================================================================
Critic.gamma = 0.99
Critic.tau = 0.005

# Parameters for Experiment:
# ==============================================================================
Experiment.agent_name = 'brac_plus'
Experiment.dataset = ('hopper.hdf5',)
"""
FACTS = {
    "agent": "brac_plus",
    "seed": 0,
    "environment": {"task": "Hopper-v4", "backend": "gymnasium"},
    "dataset": {"files": ["hopper.hdf5"], "sha256": "ab" * 32},
    "host": {"python": "3.11"},
}


@pytest.fixture
def directory(tmp_path) -> pathlib.Path:
    return tmp_path / "runs" / "hopper" / "brac_plus" / "0"


@pytest.fixture
def open_record(directory):
    """Opens records one after another, each when the one before is released, like processes that follow each other."""
    records = []

    def open_next() -> RunRecord:
        release()
        records.append(RunRecord(directory))
        return records[-1]

    def release() -> None:
        for record in records:
            record.flush()
            record._lock.close()

    yield open_next
    release()


def variables(value: float) -> dict[str, tf.Variable]:
    return {"weight": tf.Variable([value, -value]), "step": tf.Variable(int(value), dtype=tf.int64)}


def checkpoint_names(directory) -> list[str]:
    return sorted(os.listdir(directory / "checkpoints"))


# The lock -----------------------------------------------------------------------------------------------------------


def test_a_second_handle_is_refused_until_the_first_is_gone(directory):
    first = RunRecord(directory)
    with pytest.raises(UserError, match="another process is working on this run") as error:
        RunRecord(directory)
    assert str(directory) in str(error.value)
    del first, error
    RunRecord(directory)


def test_another_process_holds_the_run_until_it_ends(directory):
    """As flock(2) says, whatever the holder is written in."""
    directory.mkdir(parents=True)
    program = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.flock(file, fcntl.LOCK_EX); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(directory / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process"):
            RunRecord(directory)
        holder.kill()
        holder.wait()
    RunRecord(directory)


def test_the_lock_outlives_a_killed_process_only_as_a_file(directory):
    directory.mkdir(parents=True)
    (directory / ".lock").write_text("left behind")
    record = RunRecord(directory)
    with open(directory / ".lock") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    del record


def test_a_file_in_the_way_is_reported(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="choose another --root_dir") as error:
        RunRecord(tmp_path / "runs" / "0")
    assert str(tmp_path / "runs" / "0") in str(error.value)


# The configuration --------------------------------------------------------------------------------------------------


def test_a_new_run_keeps_its_configuration_and_facts(open_record, directory):
    open_record().begin(CONFIG, FACTS)
    assert (directory / "operative_config.gin").read_text() == CONFIG
    assert json.loads((directory / "run.json").read_text()) == {"format": 1, **FACTS}
    assert read_facts(directory) == {"format": 1, **FACTS}


@pytest.mark.parametrize(
    ("config", "facts"),
    [
        (CONFIG, FACTS),
        ("# another comment\n" + CONFIG.replace("\n\n", "\n"), FACTS),
        (CONFIG.replace("('hopper.hdf5',)", "('/elsewhere/hopper.hdf5',)"), FACTS),
        (CONFIG, {**FACTS, "host": {"python": "3.12"}}),
    ],
    ids=["same", "comments and blank lines", "dataset moved", "another host"],
)
def test_the_same_configuration_goes_on(open_record, directory, config, facts):
    open_record().begin(CONFIG, FACTS)
    open_record().begin(config, facts)
    assert (directory / "operative_config.gin").read_text() == CONFIG
    assert read_facts(directory)["host"] == {"python": "3.11"}


def test_a_dataset_moved_to_a_long_path_is_the_same_dataset(open_record):
    """gin wraps what is longer than 80 characters, tuples over several lines."""
    files = [f"/somewhere/far/away/in/a/directory/with/a/name/{name}.hdf5" for name in ("first", "second")]
    wrapped = f"Experiment.dataset = \\\n    ('{files[0]}',\n     '{files[1]}')\n"
    open_record().begin(CONFIG, FACTS)
    open_record().begin(CONFIG.replace("Experiment.dataset = ('hopper.hdf5',)\n", wrapped), FACTS)


@pytest.mark.parametrize(
    ("config", "facts", "shown"),
    [
        (
            CONFIG.replace("Critic.tau = 0.005", "Critic.tau = 0.001"),
            FACTS,
            "(-Critic.tau = 0.005; +Critic.tau = 0.001)",
        ),
        (CONFIG + "Loop.compiled = False\n", FACTS, "(+Loop.compiled = False)"),
        (CONFIG.replace("Critic.gamma = 0.99\n", ""), FACTS, "(-Critic.gamma = 0.99)"),
        (CONFIG.replace("'brac_plus'", "\\\n    'brac_plus_with_a_name'"), FACTS, "brac_plus_with_a_name"),
        (CONFIG, {**FACTS, "seed": 1}, "(-seed 0; +seed 1)"),
        (CONFIG, {**FACTS, "environment": None}, "+environment null"),
        (CONFIG, {**FACTS, "dataset": {"files": ["hopper.hdf5"], "sha256": "cd" * 32}}, "cdcdcd"),
    ],
    ids=["changed", "added", "removed", "wrapped", "seed", "environment", "dataset contents"],
)
def test_another_configuration_is_refused_with_the_difference(open_record, directory, config, facts, shown):
    open_record().begin(CONFIG, FACTS)
    record = open_record()
    with pytest.raises(UserError) as error:
        record.begin(config, facts)
    assert shown in str(error.value) and str(directory) in str(error.value)
    assert (directory / "operative_config.gin").read_text() == CONFIG
    assert read_facts(directory) == {"format": 1, **FACTS}


def test_a_beginning_cut_short_begins_again(open_record, directory):
    """run.json is written last: without it there is no run yet."""
    open_record()
    (directory / "operative_config.gin").write_text("Critic.gamma = 0.5\n")
    open_record().begin(CONFIG, FACTS)
    assert (directory / "operative_config.gin").read_text() == CONFIG


def test_a_lost_configuration_is_reported(open_record, directory):
    open_record().begin(CONFIG, FACTS)
    (directory / "operative_config.gin").unlink()
    record = open_record()
    with pytest.raises(UserError, match=r"operative_config\.gin"):
        record.begin(CONFIG, FACTS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"format": 2}), "newer version .format 2."),
        (json.dumps({"agent": "sac", "seed": 0}), "not written by this package"),
        (json.dumps({"format": "1.0"}), "not written by this package"),
        (json.dumps(["format"]), "not written by this package"),
        ('{"format": 1', "not valid JSON"),
        ("", "not valid JSON"),
    ],
)
def test_foreign_or_newer_facts_are_refused(tmp_path, content, message):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_facts(tmp_path)
    assert str(tmp_path / "run.json") in str(error.value)


def test_a_newer_run_is_not_continued(open_record, directory):
    record = open_record()
    write_json(directory / "run.json", {**FACTS, "format": 2})
    (directory / "operative_config.gin").write_text(CONFIG)
    with pytest.raises(UserError, match="upgrade"):
        record.begin(CONFIG, FACTS)


def test_a_directory_without_facts_is_no_run(tmp_path):
    with pytest.raises(UserError, match="not a run directory"):
        read_facts(tmp_path)


def test_host_facts_are_those_of_this_host():
    facts = host_facts()
    assert facts["python"] == "{}.{}.{}".format(*sys.version_info)
    assert facts["packages"]["tensorflow"] == tf.__version__
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["processors"] == os.cpu_count()
    json.dumps(facts)


# Metrics ------------------------------------------------------------------------------------------------------------


def test_metrics_in_long_format(open_record, directory):
    record = open_record()
    record.restore({})
    record.write_metrics("behavior", 5, {"loss": 0.1, "kl": 1e-300})
    record.write_metrics("main", 10, {"loss": -3.0})
    expected = "stage,step,metric,value\nbehavior,5,loss,0.1\nbehavior,5,kl,1e-300\nmain,10,loss,-3.0\n"
    assert (directory / "metrics.csv").read_text() == expected
    assert list(read_metrics(directory)) == [
        ("behavior", 5, "loss", 0.1),
        ("behavior", 5, "kl", 1e-300),
        ("main", 10, "loss", -3.0),
    ]


def test_tensorboard_shows_the_same_values(open_record, directory):
    record = open_record()
    record.restore({})
    record.write_metrics("behavior", 5, {"loss": 0.5})
    record.write_metrics("main", 10, {"loss": -3.0, "kl": 0.25})
    record.flush()
    assert events(directory) == [("behavior/loss", 5, 0.5), ("main/kl", 10, 0.25), ("main/loss", 10, -3.0)]


def test_restoring_drops_what_came_after_the_checkpoint(open_record, directory):
    record = open_record()
    record.restore(variables(0.0))
    record.write_metrics("main", 5, {"loss": 1.5})
    record.save(variables(5.0), Position(0, 5))
    at_checkpoint = (directory / "metrics.csv").read_bytes()
    record.write_metrics("main", 10, {"loss": 2.5})
    with open(directory / "metrics.csv", "a") as file:
        file.write("main,15,lo")  # a row that a crash cut off

    record, restored = open_record(), variables(0.0)
    assert record.restore(restored) == Position(0, 5)
    np.testing.assert_array_equal(restored["weight"].numpy(), [5.0, -5.0])
    assert restored["step"].numpy() == 5
    assert (directory / "metrics.csv").read_bytes() == at_checkpoint
    record.flush()
    assert events(directory) == [("main/loss", 5, 1.5)]

    record.write_metrics("main", 10, {"loss": 3.5})
    record.flush()
    assert events(directory) == [("main/loss", 5, 1.5), ("main/loss", 10, 3.5)]
    assert (directory / "metrics.csv").read_text() == at_checkpoint.decode() + "main,10,loss,3.5\n"


def test_the_checkpoint_counts_bytes(open_record, directory):
    record = open_record()
    record.restore({})
    record.write_metrics("main", 5, {"Größe": 1.0})
    record.save({}, Position(0, 5))
    record.write_metrics("main", 10, {"Größe": 2.0})
    open_record().restore({})
    assert (directory / "metrics.csv").read_bytes() == "stage,step,metric,value\nmain,5,Größe,1.0\n".encode()


def test_a_run_without_checkpoint_starts_at_zero(open_record, directory):
    record = open_record()
    record.restore({})
    record.write_metrics("main", 5, {"loss": 1.5})
    record = open_record()
    untouched = variables(7.0)
    assert record.restore(untouched) == Position(0, 0)
    assert untouched["step"].numpy() == 7
    assert (directory / "metrics.csv").read_text() == "stage,step,metric,value\n"
    record.flush()
    assert events(directory) == []


# Checkpoints --------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(open_record, directory):
    """A run with checkpoints at steps 10 .. 50 of stage 0 and step 0 of stage 1, one row of metrics before each."""
    record = open_record()
    record.restore(variables(0.0))
    for value in (10, 20, 30, 40, 50, 60):
        record.write_metrics("main", value, {"loss": float(value)})
        record.save(variables(float(value)), Position(0, value) if value < 60 else Position(1, 0))
    return directory


def damage(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(bytes(content))


def test_the_last_three_checkpoints_are_kept(saved):
    assert checkpoint_names(saved) == ["0-000000040.safetensors", "0-000000050.safetensors", "1-000000000.safetensors"]


def test_the_newest_is_restored(saved, open_record):
    restored = variables(0.0)
    assert open_record().restore(restored) == Position(1, 0)
    assert restored["step"].numpy() == 60


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(saved, open_record, caplog):
    damage(saved / "checkpoints" / "1-000000000.safetensors")
    restored = variables(0.0)
    with caplog.at_level(logging.WARNING):
        assert open_record().restore(restored) == Position(0, 50)
    (warning,) = caplog.messages
    assert "1-000000000.safetensors" in warning and "damaged" in warning
    assert restored["step"].numpy() == 50
    assert (saved / "metrics.csv").read_text().splitlines()[-1] == "main,50,loss,50.0"


def test_a_truncated_checkpoint_is_passed_over_as_well(saved, open_record):
    path = saved / "checkpoints" / "1-000000000.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    assert open_record().restore(variables(0.0)) == Position(0, 50)


def test_without_an_intact_checkpoint_nothing_is_touched(saved, open_record):
    for name in checkpoint_names(saved):
        damage(saved / "checkpoints" / name)
    before, restored = (saved / "metrics.csv").read_bytes(), variables(7.0)
    with pytest.raises(UserError, match="no usable checkpoint") as error:
        open_record().restore(restored)
    assert str(saved) in str(error.value)
    assert restored["step"].numpy() == 7
    assert (saved / "metrics.csv").read_bytes() == before


def test_a_half_written_temporary_file_is_no_checkpoint(saved, open_record):
    (saved / "checkpoints" / ".2-000000000.safetensors.123.tmp").write_bytes(b"part")
    assert open_record().restore(variables(0.0)) == Position(1, 0)


def test_ten_stages_keep_their_order(open_record, directory):
    record = open_record()
    record.restore(variables(0.0))
    for stage in range(8, 12):
        record.save(variables(float(stage)), Position(stage, 0))
    restored = variables(0.0)
    assert open_record().restore(restored) == Position(11, 0)
    assert restored["step"].numpy() == 11
    assert len(checkpoint_names(directory)) == 3


# What stages say -----------------------------------------------------------------------------------------------------


def test_warnings_are_kept_with_the_checkpoint(open_record):
    record = open_record()
    record.restore({})
    record.warnings.append(Warned("main", "value", "main step 5: Q diverges"))
    record.save({}, Position(0, 5))
    record.warnings.append(Warned("main", "constraint", "after it"))
    record = open_record()
    record.restore({})
    assert record.warnings == [("main", "value", "main step 5: Q diverges")]


def test_a_stages_report_is_repeated_byte_for_byte(open_record, directory):
    """Also through JSON: numbers whose shortest text is long, tiny, huge or none at all."""
    values = {"loss": 0.1 + 0.2, "kl": 1e-300, "q": -3.4028234663852886e38, "nan": float("nan"), "inf": float("inf")}
    record = open_record()
    record.restore({})
    record.write_metrics("behavior", 5, values)
    record.write_metrics("main", 5, {"loss": 1.0})
    record.write_metrics("behavior", 10, {"loss": 1.0, "evaluation/return_mean": 2.0})
    record.warnings += [Warned("behavior", "", "broad"), Warned("main", "value", "diverges")]
    report = StageReport.from_json(json.loads(json.dumps(record.report("behavior"))))
    assert report.warnings == [("behavior", "", "broad")]
    record.restore({})  # to the beginning
    record.repeat(report)
    expected = "".join(f"behavior,5,{name},{value!r}\n" for name, value in values.items()) + "behavior,10,loss,1.0\n"
    assert (directory / "metrics.csv").read_text() == "stage,step,metric,value\n" + expected
    assert record.warnings == report.warnings
