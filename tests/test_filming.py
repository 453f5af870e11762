"""Videos of episodes: that they show the very episode, in a process of their own, and what is refused."""

import json
import os

import imageio_ffmpeg
import numpy as np
import own_environments  # noqa: F401  # registers
import pytest
import tiny
from processes import start_process

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.environments import filming
from brac_plus_tf.environments.filming import Played, Video
from brac_plus_tf.environments.tasks import find_task

STEPS = np.array([[0.1, 0.0], [0.2, 0.01], [0.3, -0.01], [0.4, 0.0]], np.float32)
TOTAL = float(STEPS[:, 0].sum())  # what Track rewards


def pictures(path):
    """Frames [T, H, W, 3] of a video, and its frames per second."""
    reader = imageio_ffmpeg.read_frames(str(path))
    facts = next(reader)
    width, height = facts["size"]
    return np.array([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]), facts["fps"]


@pytest.fixture
def no_renderer(monkeypatch):
    monkeypatch.setattr(filming, "RENDERERS", ("nonsense", "absurd"))


@pytest.mark.parametrize("name", ["own_environments:Filmed-v0", "own_environments:make_filmed"])
def test_each_state_is_a_frame_and_nothing_of_mujoco_is_needed(tmp_path, no_renderer, name):
    Video(tmp_path / "film.mp4").film(find_task(name, 12), "gymnasium", Played(3, STEPS, TOTAL))
    frames, pace = pictures(tmp_path / "film.mp4")
    assert frames.shape == (5, 32, 48, 3) and pace == 10
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), [0, 20, 40, 60, 80], atol=3.0)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


def test_a_module_of_the_users_is_imported_before(tmp_path, no_renderer):
    """There the id is known without its module's name."""
    task = find_task("Filmed-v0")
    with pytest.raises(UserError, match="Filmed"):
        Video(tmp_path / "film.mp4").film(task, "gymnasium", Played(3, STEPS, TOTAL))
    Video(tmp_path / "film.mp4", ["own_environments"]).film(task, "gymnasium", Played(3, STEPS, TOTAL))
    assert len(pictures(tmp_path / "film.mp4")[0]) == 5


@pytest.mark.parametrize(
    ("name", "total", "message"),
    [
        ("own_environments:Filmed-v0", TOTAL + 1e-4, r"played again .* returned 1 instead of 1.0001"),
        ("own_environments:Restless-v0", TOTAL, "an environment that does not repeat itself cannot be filmed"),
        ("own_environments:make_limited", TOTAL, "render_mode is None; it has to make one of 'rgb_array'"),
        ("own_environments:Track-v0", TOTAL, r"Track\(\) takes no arguments"),
    ],
)
def test_what_cannot_be_filmed_leaves_nothing(tmp_path, no_renderer, name, total, message):
    with pytest.raises(UserError, match=message) as caught:
        Video(tmp_path / "film.mp4").film(find_task(name), "gymnasium", Played(3, STEPS, total))
    assert "UserError" not in str(caught.value) and not list(tmp_path.iterdir())


def test_without_a_renderer_mujoco_is_refused_in_one_line_that_says_why_each_failed(tmp_path, no_renderer):
    with pytest.raises(UserError) as caught:
        Video(tmp_path / "film.mp4").film(find_task("Hopper-v4"), "gymnasium", Played(3, np.zeros([2, 3]), 2.0))
    message = str(caught.value)
    assert "\n" not in message and message.startswith("Hopper-v4: cannot be filmed")
    assert "nonsense: " in message and "absurd: " in message and not list(tmp_path.iterdir())


def test_where_it_could_not_go_is_refused_before_anything_is_played(tmp_path):
    with pytest.raises(UserError, match=r"only MP4"):
        Video(tmp_path / "film.avi")
    with pytest.raises(UserError, match=r"no such directory; make it first"):
        Video(tmp_path / "absent" / "film.mp4")
    with pytest.raises(UserError, match=r"--backend=gymnasium"):
        Video(tmp_path / "film.mp4").film(find_task("hopper-medium-v0"), "d4rl", Played(3, np.zeros([2, 3]), 2.0))


@pytest.mark.slow
def test_evaluate_films_the_first_of_its_episodes(tmp_path):
    """In D4RL's variant of Hopper, by actions that are drawn; where nothing draws, one line says so, after the result.

    What MUJOCO_GL says does not matter, to the video neither.
    """
    source = tiny.write_hopper_dataset(tmp_path / "hopper.hdf5")
    flags = ["--gin_file=bc/base.gin", f"--dataset={source}", "--env=hopper-medium-v0", "--smoke"]
    assert tiny.run_here("train", *flags, f"--root_dir={tmp_path}").status == 0
    (run_dir,) = (path.parent for path in tmp_path.rglob("evaluation.json"))
    flags = [f"--run_dir={run_dir}", "--episodes=3", "--action=sample", "--seed=7", f"--video={tmp_path}/film.mp4"]
    flags += ["--backend=gymnasium"]
    before = os.environ.get("MUJOCO_GL")
    done = start_process("brac_plus_tf.evaluate", *flags, cwd=tmp_path)
    stdout, stderr = done.communicate()
    length = json.loads((run_dir / "evaluation-sample-7.json").read_text())["lengths"][0]
    if done.returncode:
        assert "No renderer works here" in stderr and len(stderr.strip().splitlines()) == 1, stderr
        return
    assert f"video: {tmp_path}/film.mp4" in stdout and f"video: {length + 1} frames in" in stderr + stdout
    frames, _ = pictures(tmp_path / "film.mp4")
    assert frames.shape == (length + 1, 480, 480, 3) and os.environ.get("MUJOCO_GL") == before
    assert frames.std(axis=(1, 2)).min() > 10.0  # there is something to be seen
    assert np.abs(np.diff(frames.astype(float), axis=0)).mean(axis=(1, 2, 3)).min() > 0.01  # and it moves
