"""How long an exported policy takes to answer, in each of its formats, beside a peer's ONNX file.

python scripts/latency.py --policy=my_policy [--way=mean] [--peer=peer.onnx] [--output=latency.json]
python scripts/d3rlpy_policy.py OBSERVATION ACTION WIDTH,WIDTH peer.onnx     in d3rlpy's interpreter, makes such a file

One process on one core; formats and batches take turns, so that a noisy moment hits all of them. Microseconds a call,
as a client in Python sees them, conversions of arrays included.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_json
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.exports import client

_TARGET = 0.02  # seconds that a turn takes

Call = Callable[[np.ndarray], object]


def calls_of(policy: Path, formats: Mapping[str, Mapping[str, str]], way: str) -> Iterator[tuple[str, Call]]:
    """The export's formats, as its contract tells them, each as a call on observations [N, O]."""
    for name, told in formats.items():
        yield name, _on_observations(client.RUNTIMES[name](policy / told["folder"], way))


def _on_observations(answer: client.Answer) -> Call:
    return lambda observation: answer({"observation": observation})


def peer_call(path: Path) -> Call:
    """Another package's ONNX file of one input; one that is of a single row is called once for each."""
    session = import_extra("onnxruntime", "onnx").InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    if given.shape[0] == 1:
        return lambda observation: [session.run(None, {given.name: row[None]}) for row in observation]
    return lambda observation: session.run(None, {given.name: observation})


def measure(calls: Mapping[str, Call], observations: Sequence[np.ndarray], turns: int) -> list[dict[str, object]]:
    """Seconds of single calls, in turns of some 20 ms each; a first turn of each is not counted."""
    seconds: dict[tuple[str, int], list[float]] = {}
    for turn in range(turns + 1):
        for observation in observations:
            for name, call in calls.items():
                taken = _turn(call, observation)
                if turn:
                    seconds.setdefault((name, len(observation)), []).extend(taken)
    return [
        {
            "format": name,
            "batch": batch,
            "calls": len(taken),
            "p50_us": 1e6 * float(np.percentile(taken, 50)),
            "p99_us": 1e6 * float(np.percentile(taken, 99)),
            "rows_per_second": batch / float(np.percentile(taken, 50)),
        }
        for (name, batch), taken in seconds.items()
    ]


def _turn(call: Call, observation: np.ndarray) -> list[float]:
    taken: list[float] = []
    while sum(taken) < _TARGET:
        start = time.perf_counter()
        call(observation)
        taken.append(time.perf_counter() - start)
    return taken


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """As Markdown."""
    lines = ["| format | batch | p50 | p99 | rows/s |", "|---|---|---|---|---|"]
    for row in rows:
        figures = (row["p50_us"], row["p99_us"], row["rows_per_second"])
        lines.append(
            "| {format} | {batch:,} | ".format(**row) + " | ".join(f"{value:,.0f}" for value in figures) + " |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str]) -> None:
    """The script."""
    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # before any runtime counts its threads
    contract = json.loads((values.policy / "policy_contract.json").read_text())
    generator = np.random.default_rng(initializer_seed(0, "observations of a latency"))
    size = len(contract["observation"]["shift"])
    observations = [generator.normal(size=(int(batch), size)).astype(np.float32) for batch in values.batches]
    calls = dict(calls_of(values.policy, contract["formats"], values.way))
    if values.peer:
        calls["peer"] = peer_call(values.peer)
    rows = measure(calls, observations, values.turns)
    print(table(rows))
    if values.output:
        write_json(values.output, {"way": values.way, "rows": rows})
        print(f"results: {values.output}")


if __name__ == "__main__":
    command_line.define_path("policy", None, "An export.", required=True)
    flags.DEFINE_string("way", "mean", "Way to act, one that takes observations alone.")
    command_line.define_path("peer", None, "Another package's ONNX file, of one input.")
    flags.DEFINE_list("batches", ["1", "32", "1024"], "Rows of a call.")
    flags.DEFINE_integer("turns", 50, "Turns of each.", lower_bound=1)
    command_line.define_path("output", None, "JSON file for the figures.")
    command_line.run_command(main)
