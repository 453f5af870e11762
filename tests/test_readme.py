"""Every command of the README works: executed here with tiny settings, but for the scripts, which CI runs."""

import json
import pathlib
import re
import shlex
import shutil

import tiny

ONLINE = (
    *("Actor.hidden_sizes = (8,)", "Critic.hidden_sizes = (8,)", "Training.batch_size = 8"),
    "OnlineExperiment.final_episodes = 1",
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
    script = (tiny.PROJECT / "scripts" / "quickstart.sh").read_text()
    assert "install --quiet --disable-pip-version-check -e '.[mujoco]'" in script


def test_python_commands_work_in_order(tmp_path, monkeypatch):
    """The commands one after the other in an empty directory but for the user's own data, each training by --smoke."""
    tiny.write_hopper_dataset(tmp_path / "my_data.hdf5", env_id=None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tiny.PROJECT))  # for the processes that compare starts
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
        if module in ("train", "train_online", "compare"):
            arguments.append("--smoke")
        if module == "train":
            arguments += [f"--gin_bindings={binding}" for binding in tiny.NETWORKS]
        if module == "train_online":
            arguments += ["--total_steps=60", *(f"--gin_bindings={binding}" for binding in ONLINE)]
        if module == "collect_data":
            arguments += ["--n_samples=50", "--workers=1", "--gin_bindings=Collection.shard_episodes = 2"]
        if module == "compare":  # one run of each of two agents
            (tmp_path / "tiny.gin").write_text("\n".join((*tiny.NETWORKS, "behavior/Actor.hidden_sizes = (8,)")))
            arguments += ["--gin_file=tiny.gin", "--seeds=0", "--agents=bc,brac_plus"]
        outcome = tiny.run_here(module, *arguments)
        assert outcome.status == 0, f"{command}\n{outcome.stderr}"
        executed += 1
    assert executed >= 8
    report = json.loads(
        pathlib.Path("runs/hopper-quickstart/brac_plus_short-smoke/0/evaluation-max_q-0.json").read_text()
    )
    assert report["episodes"] == 20 and len(report["returns"]) == 20
    assert pathlib.Path("runs/my_data/brac_plus_short-smoke/0/saved_model").exists()
    assert not pathlib.Path("runs/my_data/brac_plus_short-smoke/0/evaluation.json").exists()
    check_python_block()
    shutil.rmtree("runs")


def check_python_block():
    """The README's own lines load the export and act: three actions per row, inside Hopper's range."""
    (code,) = blocks("python")
    names: dict[str, object] = {}
    exec(code, names)  # the README's code, nobody else's
    for name in ("action", "drawn", "best"):
        action = names[name].numpy()
        assert action.shape == (1, 3) and (abs(action) <= 1.0).all()


def test_every_gin_file_named_exists():
    folders = "|".join(path.name for path in (tiny.PROJECT / "gin_configs").iterdir() if path.is_dir())
    named = re.findall(rf"`((?:{folders})/[^`]+\.gin)`", README)
    assert len(named) > 8
    for pattern in named:
        assert list((tiny.PROJECT / "gin_configs").glob(pattern.replace("<task>", "*"))), pattern
