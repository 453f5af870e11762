"""Pre-trained stages shared between runs, each under a key of everything that its outcome depends on."""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf
from absl import logging

from brac_plus_tf.agents.base import Agent, Stage, named_variables
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import PACKAGE
from brac_plus_tf.core.settings import describe
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.runs.checkpoints import load_state, save_state
from brac_plus_tf.runs.run_record import StageReport


class StageCache:
    """Stores what a finished stage wrote and said; finds it for a run that would compute the same.

    compiled, steps_per_call: the loop's; metrics are means over calls, which end where an epoch does, too.
    """

    def __init__(
        self,
        directory: Path,
        agent: Agent,
        dataset: OfflineDataset,
        seed: int,
        compiled: bool,
        steps_per_call: int,
    ) -> None:
        self._directory, self._agent, self._steps_per_call = directory, agent, steps_per_call
        self._base = {
            # of what training sees: code outside the package may have read the same files in another way
            "transitions": dataset.transitions_sha256,
            "scaling": dataset.scaling.to_json(),
            "seed": seed,
            "compiled": compiled,
            "source": source_digest(),
            "tensorflow": tf.__version__,
        }

    def load(self, stages: Sequence[Stage], index: int) -> StageReport | None:
        """Fills in what stage `index` would have written; None where that has not been computed yet."""
        path = self._path(stages, index)
        if not stages[index].writes or not path.exists():
            return None
        try:
            return StageReport.from_json(load_state(path, self._variables(stages[index]))["report"])
        except UserError as error:
            logging.warning("%s; the stage is computed anew", error)
            return None

    def store(self, stages: Sequence[Stage], index: int, report: StageReport) -> None:
        """Keeps the outcome of stage `index`, if it may be reused."""
        if stages[index].writes:
            try:
                self._directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self._directory}: cannot be made ({error.strerror})") from error
            record = {"key": self._key(stages, index), "report": report}
            save_state(self._path(stages, index), self._variables(stages[index]), record)

    def _variables(self, stage: Stage) -> Mapping[str, tf.Variable]:
        components = self._agent.components()
        return named_variables({name: components[name] for name in stage.writes})

    def _key(self, stages: Sequence[Stage], index: int) -> dict[str, object]:
        """The settings of the stage and of all before it, which it builds on, and where its metrics are taken."""
        chain = [
            {"name": stage.name, "steps": stage.steps, "settings": describe(stage.settings)}
            for stage in stages[: index + 1]
        ]
        stage = stages[index]
        own = {"writes": stage.writes, "calls": [self._steps_per_call, stage.epoch_steps]}
        return {**self._base, "stages": chain, **own}

    def _path(self, stages: Sequence[Stage], index: int) -> Path:
        text = json.dumps(self._key(stages, index), sort_keys=True)
        return self._directory / f"{stages[index].name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


@functools.cache
def source_digest() -> str:
    """sha256 over this package's source files: changed code never meets old results."""
    digest = hashlib.sha256()
    root = PACKAGE
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
