"""A played episode as a video: it is played again, by its actions, in a process that does nothing but draw.

A renderer never gets into the process of TensorFlow: beside it EGL aborts at the process's end where there is no GPU.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import written_atomically
from brac_plus_tf.core.progress import Progress
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import Task, recorded_task

RENDERERS = ("egl", "osmesa")  # in the order in which they are tried: with a GPU, without
_PROBE = "import mujoco; mujoco.GLContext(64, 64).make_current()"
_FRAME = "frame\n"  # what the process that draws says of each; at its end it says the return
_NEAR = 1e-6  # relative difference of two returns that are the same but for the order of their sums


class Played(NamedTuple):
    """An episode to be filmed: its starting seed, actions [T, A] in the environment's units, undiscounted return."""

    seed: int
    actions: np.ndarray
    total: float


class Video:
    """Where the video of an episode goes."""

    def __init__(self, path: Path, modules: Sequence[str] = ()) -> None:
        """Args:
          modules: of the user's, to import before the environment is made.
        Raises:
          UserError: if no MP4 could be put there, or the packages that make one are missing.
        """
        if path.suffix != ".mp4":
            raise UserError(f"--video={path}: only MP4 is written; give it a name that ends in .mp4")
        if not path.parent.is_dir():
            raise UserError(f"--video={path}: no such directory; make it first")
        import_extra("imageio_ffmpeg", "video")
        self.path, self._modules = path, modules

    def film(self, task: Task, backend: str, played: Played) -> None:
        """Writes the episode, whole or not at all.

        Raises:
          UserError: if no renderer works here, the environment cannot be filmed, or does not repeat the episode.
        """
        if backend != "gymnasium":
            raise UserError(f"--video: {backend}'s own simulator is not filmed; give --backend=gymnasium")
        _film(task, played, self.path, self._modules)


def _film(task: Task, played: Played, path: Path, modules: Sequence[str]) -> None:
    renderer, reasons = _working_renderer()
    with written_atomically(path) as temporary, tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "actions.npy", played.actions)
        job = {"seed": played.seed, "task": task.facts(), "folder": folder, "video": str(temporary)}
        job |= {"modules": list(modules)}
        said, fault, command = "", Path(folder) / "stderr", [sys.executable, "-m", __spec__.name, json.dumps(job)]
        with (
            fault.open("w") as stderr,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=_environment(renderer)
            ) as process,
            Progress("video", len(played.actions) + 1, "frames") as bar,
        ):
            assert process.stdout is not None
            for said in process.stdout:
                bar.advance(said == _FRAME)
        if process.returncode:
            reason = _last_line(fault.read_text())
            if renderer == "disabled":
                reason += f". No renderer works here: {'; '.join(reasons)}"
            raise UserError(f"{task.name}: cannot be filmed ({reason})")
        total = float(said)
        if abs(total - played.total) > _NEAR * max(1.0, abs(played.total)):
            raise UserError(
                f"{task.name}: played again from the same seed by the same actions the episode returned {total:.6g} "
                f"instead of {played.total:.6g}; an environment that does not repeat itself cannot be filmed"
            )


def _working_renderer() -> tuple[str, list[str]]:
    """The first that MuJoCo can draw with, or 'disabled', which environments of other simulators do not mind; and why
    the ones before do not work.
    """
    reasons: list[str] = []
    for renderer in RENDERERS:
        command = [sys.executable, "-c", _PROBE]
        done = subprocess.run(command, capture_output=True, text=True, env=_environment(renderer))
        if not done.returncode:
            return renderer, reasons
        reasons.append(f"{renderer}: {_last_line(done.stderr)}")
    return "disabled", reasons


def _environment(renderer: str) -> dict[str, str]:
    """Of a process with this one's modules, in which MuJoCo is told the renderer before it is imported."""
    path = os.pathsep.join(filter(None, sys.path))
    own = {"MUJOCO_GL": renderer, "PYTHONPATH": path, "SDL_VIDEODRIVER": "dummy"}  # pygame draws without a screen, too
    return {**os.environ, **own, **({} if renderer == "disabled" else {"PYOPENGL_PLATFORM": renderer})}


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("Exception ignored")]
    return lines[-1].strip()[:300] if lines else "it ended without a word"


# In the process that draws ----------------------------------------------------------------------------------------


def _draw(job: dict[str, Any]) -> None:
    """Plays and writes; prints the return."""
    import importlib

    for module in job["modules"]:
        importlib.import_module(module)
    task = recorded_task(job["task"])
    environment = make_environment(task, "gymnasium", render_mode="rgb_array")
    environment.reset(seed=job["seed"])
    frames, total = _Writer(Path(job["video"]), environment), 0.0
    frames.add()
    for action in np.load(Path(job["folder"]) / "actions.npy"):
        _, reward, *_ = environment.step(action)
        total += reward
        frames.add()
    frames.close()
    print(json.dumps(total))


class _Writer:
    """The environment's pictures as a video, at its own pace."""

    def __init__(self, path: Path, environment: Any) -> None:
        self._environment, self._path = environment, path
        self._writer: Any = None

    def add(self) -> None:
        picture = np.ascontiguousarray(self._environment.render(), np.uint8)
        if self._writer is None:
            height, width, _ = picture.shape
            pace = self._environment.unwrapped.metadata.get("render_fps", 30)
            self._writer = import_extra("imageio_ffmpeg", "video").write_frames(
                str(self._path), (width, height), fps=pace, macro_block_size=2, output_params=["-f", "mp4"]
            )
            self._writer.send(None)
        self._writer.send(picture)
        print(_FRAME, end="", flush=True)

    def close(self) -> None:
        self._writer.close()


if __name__ == "__main__":
    if os.environ["MUJOCO_GL"] != "disabled":
        import mujoco  # noqa: F401  # loads the renderer that MUJOCO_GL names; what follows would keep it from that
    try:
        _draw(json.loads(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
