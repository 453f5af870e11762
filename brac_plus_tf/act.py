"""Acts: observations in by lines, actions out by lines, in the environment's units.

    echo "0.1,0.2,0.3,0,0,0,0,0,0,0,0" | python -m brac_plus_tf.act --policy=my_policy
    echo '{"observation": [0.1, 0.2, 0.3, 0, 0, 0, 0, 0, 0, 0, 0]}' | python -m brac_plus_tf.act --policy=my_policy

A line is a row of numbers with commas between them, and is answered by such a row; or it is JSON, an object with
"observation" and, if you like, "seed" for an action that is a draw, and is answered by an object with "action". Every
line is answered before the next one is read. An empty line begins an episode anew, for policies that remember.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError


def main(argv: Sequence[str]) -> None:
    """The command."""
    import numpy as np

    from brac_plus_tf.policies.saved_policy import LoadedPolicy

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    policy = LoadedPolicy(values.policy)
    way = policy.way(values.action or policy.actions[0])
    state, size = way.initial_state(1), policy.dimensions.observation
    for number, line in enumerate(sys.stdin, start=1):
        if not line.strip():
            state = way.initial_state(1)
            continue
        given, seed = _read(line, f"stdin, line {number}", values.seed + number - 1)
        observation = np.asarray(given, np.float32)
        if observation.shape != (size,) or not np.isfinite(observation).all():
            raise UserError(f"stdin, line {number}: the policy takes {size} finite numbers, not {line.strip()[:80]!r}")
        action, state = way.act(observation[None], state, np.array([seed % 2**31], np.int32))
        numbers = [float(str(entry)) for entry in action[0]]  # float32's own shortest digits
        answer = json.dumps({"action": numbers}) if line.lstrip().startswith("{") else ",".join(map(str, numbers))
        print(answer, flush=True)


def _read(line: str, where: str, seed: int) -> tuple[list[Any], int]:
    """The observation and the seed that a line gives; the seed if it gives none."""
    try:
        if not line.lstrip().startswith("{"):
            return [float(cell) for cell in line.split(",")], seed
        content = json.loads(line)
        return [float(entry) for entry in content["observation"]], int(content.get("seed", seed))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        what = "numbers with commas between them, or JSON with a list 'observation'"
        raise UserError(f"{where}: {line.strip()[:80]!r} is not {what}") from error


if __name__ == "__main__":
    command_line.define_path("policy", None, "Exported policy.", required=True)
    flags.DEFINE_string("action", None, "Which of the policy's ways to act; default: its first.")
    flags.DEFINE_integer("seed", 0, "Of the first line's draw; each further line counts on.", lower_bound=0)
    command_line.run_command(main)
