"""Every command of the README works: executed here with tiny settings, but for the scripts, which CI runs."""

import json
import pathlib
import re
import shlex
import shutil

import matplotlib
import numpy as np
import tiny
from processes import ForkedProcess, finish_process

ONLINE = (
    *("Actor.hidden_sizes = (8,)", "Critic.hidden_sizes = (8,)", "Training.batch_size = 8"),
    "OnlineExperiment.final_episodes = 1",
)
ESTIMATION = (
    *("FittedQ.steps = 20", "FittedQ.looks = 20", "FittedQ.hidden_sizes = (8,)", "FittedQ.batch_size = 8"),
    *("clone/Fit.steps = 5", "clone/Actor.hidden_sizes = (8,)"),
)
README = (tiny.PROJECT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands():
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line]


def test_scripts_named_in_the_readme_run_in_ci():
    ci = (tiny.PROJECT / ".ci" / "run").read_text().splitlines()
    scripts = {command for command in commands() if command.startswith("bash ")}
    assert scripts == {"bash scripts/quickstart.sh", "bash scripts/test.sh"}
    assert all(any(line.startswith(command) for line in ci) for command in scripts)


def test_installation_is_what_the_quickstart_does():
    assert "pip install -e .[mujoco]" in commands()
    scripts = tiny.PROJECT / "scripts"
    assert "\ninstall_into_venv mujoco\n" in (scripts / "quickstart.sh").read_text()
    assert 'install --quiet --disable-pip-version-check -e ".[$1]"' in (scripts / "environment.sh").read_text()


def test_python_commands_work_in_order(tmp_path, monkeypatch):
    """The commands one after the other in an empty directory but for the user's own data, each training by --smoke."""
    tiny.write_hopper_dataset(tmp_path / "my_data.hdf5", env_id=None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    known = {command for command in commands() if command.startswith(("bash ", "pip "))}
    executed = 0
    for command in commands():
        if command in known:
            continue
        program, _, module, *arguments = shlex.split(command)
        assert program == "python" and module.startswith("brac_plus_tf."), command
        module = module.removeprefix("brac_plus_tf.")
        arguments = [argument.replace("_short/0", "_short-smoke/0") for argument in arguments]
        arguments = [argument.replace("_online/0", "_online-smoke/0") for argument in arguments]
        if module in ("train", "train_online", "compare", "select"):
            arguments.append("--smoke")
            if executed > 1:  # the first two are one run, compiled as usual
                arguments.append("--gin_bindings=Loop.compiled = False")
        if module == "estimate":
            arguments += [f"--gin_bindings={binding}" for binding in ESTIMATION]
        if module == "select":
            arguments = ["--thresholds=1,2" if text.startswith("--thresholds=") else text for text in arguments]
            arguments += [f"--estimate_bindings={binding}" for binding in ESTIMATION]
        if module in ("train", "select"):
            arguments += [f"--gin_bindings={binding}" for binding in tiny.NETWORKS]
        if module == "train_online":
            arguments += ["--total_steps=60", *(f"--gin_bindings={binding}" for binding in ONLINE)]
        if module == "collect_data":
            arguments += ["--n_samples=50", "--workers=1", "--gin_bindings=Collection.shard_episodes = 2"]
        if module == "compare":  # one run of each of two agents
            (tmp_path / "tiny.gin").write_text("\n".join((*tiny.NETWORKS, "behavior/Actor.hidden_sizes = (8,)")))
            arguments += ["--gin_file=tiny.gin", "--seeds=0", "--agents=bc,td3_bc"]
        if module == "compare":  # starts others; in a process of its own, as warm as those
            outcome = finish_process(ForkedProcess("brac_plus_tf.compare", *arguments, cwd=tmp_path))
        else:
            outcome = tiny.run_here(module, *arguments)
        assert outcome.status == 0, f"{command}\n{outcome.stderr}"
        executed += 1
    assert executed >= 8
    report = json.loads(
        pathlib.Path("runs/hopper-quickstart/brac_plus_short-smoke/0/evaluation-max_q-0.json").read_text()
    )
    assert report["episodes"] == 20 and len(report["returns"]) == 20
    assert pathlib.Path("runs/hopper-quickstart/brac_plus_short-smoke/0/curves.png").exists()
    assert pathlib.Path("runs/my_data/brac_plus_short-smoke/0/saved_model").exists()
    assert not pathlib.Path("runs/my_data/brac_plus_short-smoke/0/evaluation.json").exists()
    assert pathlib.Path("runs/my_data/brac_plus_short-smoke/0/estimate/estimate.json").exists()
    assert pathlib.Path("selection/policy/saved_model.pb").exists() and pathlib.Path("selection/report.html").exists()
    check_python_block()
    shutil.rmtree("runs")


def check_python_block():
    """The README's own lines load the export and act: three actions per row, inside Hopper's range."""
    code = next(block for block in blocks("python") if "saved_model.load" in block)
    names: dict[str, object] = {}
    exec(code, names)  # the README's code, nobody else's
    for name in ("action", "drawn", "best"):
        action = names[name].numpy()
        assert action.shape == (1, 3) and (abs(action) <= 1.0).all()


def test_from_arrays_to_actions_in_ten_lines(tmp_path, monkeypatch):
    """The README's lines on logs of a robot with actions in [-2, 2], for fewer steps than they say."""
    code = next(block for block in blocks("python") if "dataset_from_arrays" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    monkeypatch.chdir(tmp_path)
    generator, rows = np.random.default_rng(0), 90
    np.savez(
        "my_logs.npz",
        observations=generator.normal(size=(rows, 4)),
        actions=generator.uniform(1.0, 2.0, size=(rows, 2)),
        rewards=generator.uniform(size=rows),
        terminals=np.arange(rows) % 30 == 29,
        timeouts=np.zeros(rows, bool),
    )
    names: dict[str, object] = {}
    exec(code.replace("epochs=50", "epochs=1, steps_per_epoch=200, batch_size=32"), names)
    assert names["action"].shape == (2,) and (names["action"] > 0.3).all()  # towards the logged ones, in their units
    np.testing.assert_allclose(names["same_action"], names["action"], atol=1e-6)
    assert pathlib.Path("runs/mine/metrics.csv").exists()


def test_the_notebook_runs_and_its_policy_beats_the_logs(monkeypatch, capsys):
    """Its cells one after the other in one namespace, for fewer steps than they say."""
    matplotlib.use("agg")
    cells = json.loads((tiny.PROJECT / "examples" / "from_arrays.ipynb").read_text())["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace("epochs=6", "epochs=2"), names)
    ours, theirs = (names[name].sum(axis=0).mean() for name in ("ours", "theirs"))
    assert ours > theirs and f"of the policy {ours:.1f}" in capsys.readouterr().out
    pictures = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    assert len(pictures) == 2  # it was run before it was committed


def test_every_gin_file_named_exists():
    folders = "|".join(path.name for path in (tiny.PROJECT / "gin_configs").iterdir() if path.is_dir())
    named = re.findall(rf"`((?:{folders})/[^`]+\.gin)`", README)
    assert len(named) > 8
    for pattern in named:
        assert list((tiny.PROJECT / "gin_configs").glob(pattern.replace("<task>", "*"))), pattern
