"""How fast an agent's stages train, and how near that is to what the machine's matrix products allow.

python scripts/benchmark.py --gin_file=gin_configs/brac_plus/base.gin [--task=Hopper-v4] [--output=benchmark.json]
python scripts/benchmark.py --gin_file=... --compare="Critic.hidden_sizes = (128, 128)"      two settings in alternation
python scripts/benchmark.py --gin_file=gin_configs/sac/base.gin --peer=PYTHON --peer_algorithm=sac ...     beside d3rlpy

A stage's limit is the rate of a step that did nothing but its matrix products, each as fast as this process can do one
of that shape; the products are read off the traced step. Data are random numbers of the task's sizes.
"""

import collections
import functools
import math
import resource
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from absl import flags
from tensorflow.python.ops.cond_v2 import get_func_graphs  # no public way leads into a traced tf.cond

from brac_plus_tf.agents.base import Agent, Stage
from brac_plus_tf.agents.mopo import MOPO
from brac_plus_tf.command_line import run_command
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_json
from brac_plus_tf.core.randomness import base_seed
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.data.hdf5_writer import write_hdf5
from brac_plus_tf.data.loading import dataset_from_arrays, load_dataset
from brac_plus_tf.data.rows import Rows
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import Task, find_task
from brac_plus_tf.policies.evaluation import Evaluator
from brac_plus_tf.policies.saved_policy import DeployedPolicy
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.compiled_stage import compile_stage, take_step
from brac_plus_tf.runs.experiment import Experiment
from brac_plus_tf.runs.facts import host_facts
from brac_plus_tf.runs.session import problem_of

Product = tuple[int, int, int]  # [m, k] times [k, n]


def random_dataset(dimensions: Dimensions, rows: int) -> OfflineDataset:
    """Normal observations, uniform actions and rewards, a terminal in every hundredth row."""
    generator = np.random.default_rng(0)
    observation, action = dimensions
    states = generator.normal(size=(rows + 1, observation))
    arrays = {
        "observations": states[:-1],
        "actions": generator.uniform(-0.9, 0.9, size=(rows, action)),
        "rewards": generator.uniform(size=rows),
        "terminals": np.arange(rows) % 100 == 0,
        "timeouts": np.zeros(rows, bool),
        "next_observations": states[1:],
    }
    return dataset_from_arrays(arrays, rewards=None, action_low=-1.0, action_high=1.0)


# What a step computes -------------------------------------------------------------------------------------------------


def count_products(stage: Stage, dataset: OfflineDataset) -> collections.Counter[Product]:
    """The matrix products of one gradient step, by shape, in its graph as traced."""
    _ = dataset.tensors
    return products_of(lambda index: take_step(stage, dataset, base_seed(0), index), tf.constant(0))


def products_of(function: Callable[..., object], *arguments: object) -> collections.Counter[Product]:
    """The matrix products of a function of tensors, by shape, in its graph as traced.

    Of the two branches of a tf.cond, those of the one that has less to do.
    """
    return _products_in(tf.function(function, autograph=False).get_concrete_function(*arguments).graph)


def _products_in(graph: tf.Graph) -> collections.Counter[Product]:
    products: collections.Counter[Product] = collections.Counter()
    for operation in graph.get_operations():
        if operation.type in ("If", "StatelessIf"):
            one, other = map(_products_in, get_func_graphs(operation))
            products += one if multiply_adds(one) < multiply_adds(other) else other
        if operation.type not in ("MatMul", "BatchMatMulV2"):
            continue
        left, right = (tensor.shape.as_list() for tensor in operation.inputs)
        names = ("transpose_a", "transpose_b") if operation.type == "MatMul" else ("adj_x", "adj_y")
        (m, k), n = left[-2:], right[-1]
        if operation.get_attr(names[0]):
            m, k = k, m
        if operation.get_attr(names[1]):
            n = right[-2]
        products[m, k, n] += math.prod(left[:-2])
    return products


def multiply_adds(products: Mapping[Product, int]) -> int:
    """Of all products together."""
    return sum(count * math.prod(shape) for shape, count in products.items())


# Times ----------------------------------------------------------------------------------------------------------------


def median_rate(call: Callable[[int], object], steps: int, windows: int) -> float:
    """Steps per second of call(steps), the median over `windows` calls."""
    rates = []
    for _ in range(windows):
        start = time.perf_counter()
        call(steps)
        rates.append(steps / (time.perf_counter() - start))
    return statistics.median(rates)


class Machine:
    """This machine's speed at the matrix products of some steps, each product compiled once and timed often.

    work: multiply-adds that one measurement should do.
    """

    def __init__(self, shapes: Iterable[Product], dtypes: Sequence[tf.DType], work: int) -> None:
        self._chains = {
            (shape, dtype.name): [product_chain(shape, dtype, compiled) for compiled in (False, True)]
            for shape in shapes
            for dtype in dtypes
        }
        self._work = work

    def limit(self, products: Mapping[Product, int], dtype: tf.DType) -> float:
        """Steps per second if a step's products were all there is to do, each in the faster of two ways."""
        seconds = 0.0
        for shape, count in products.items():
            repeats = max(3, min(2000, self._work // math.prod(shape)))
            rates = [2 * median_rate(chain, repeats, 3) for chain in self._chains[shape, dtype.name]]
            seconds += count / max(rates)
        return 1.0 / seconds


def product_chain(shape: Product, dtype: tf.DType, compiled: bool) -> Callable[[int], object]:
    """(count) -> that many pairs of matrix products, there and back, of which a compiler can skip none."""
    m, k, n = shape
    matrices = [np.random.default_rng(0).normal(size=size) / math.sqrt(size[1]) for size in ((m, k), (k, n), (n, k))]
    left, there, back = (tf.constant(matrix, dtype) for matrix in matrices)

    @tf.function(jit_compile=compiled, autograph=False)
    def run(left: tf.Tensor, there: tf.Tensor, back: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        def body(index: tf.Tensor, left: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return index + 1, (left @ there) @ back

        return tf.while_loop(lambda index, _: index < count, body, (tf.constant(0), left))[1]

    run(left, there, back, tf.constant(1))
    return lambda count: run(left, there, back, tf.constant(count)).numpy()


class Setting:
    """One configuration with its compiled stages."""

    def __init__(self, files: Sequence[str], bindings: Sequence[str], dataset: OfflineDataset) -> None:
        self.experiment = configuration.build(Experiment, files, ["Experiment.dataset = 'none'", *bindings])
        self.dataset = dataset
        self.agent: Agent = self.experiment.build_agent(problem_of(dataset, None), 0)
        self.stages = list(self.agent.stages())
        self.calls: list[Callable[[int], object]] = []
        self.compile_seconds: list[float] = []
        for stage in self.stages:
            stage.prepare(dataset, 0, base_seed(0))
            run_steps = compile_stage(stage, dataset, base_seed(0), self.experiment.loop.compiled)
            start = time.perf_counter()
            run_steps(0, 1)
            self.compile_seconds.append(time.perf_counter() - start)
            self.calls.append(functools.partial(run_steps, 0))


class Work(NamedTuple):
    """Something whose speed is measured: call(n) does it n times; products: the matrix products of one."""

    name: str
    call: Callable[[int], object]
    products: collections.Counter[Product]
    compile_seconds: float


def stage_work(setting: Setting) -> Iterator[Work]:
    """A gradient step of each stage."""
    for stage, call, seconds in zip(setting.stages, setting.calls, setting.compile_seconds, strict=True):
        yield Work(stage.name, call, count_products(stage, setting.dataset), seconds)


def model_work(setting: Setting, episodes: int) -> Iterator[Work]:
    """What a model of the dynamics is asked beside them: a chunk of imagined transitions, an action of a planner."""
    agent, seed = setting.agent, base_seed(0)
    if isinstance(agent, MOPO):
        settings = agent.settings["imagination"]  # type: ignore[attr-defined]
        chunk = min(settings.chunk, settings.starts)
        starts = setting.dataset.sample((chunk,), seed).observation
        yield timed(f"imagined from {chunk:,} states", agent.imagine, starts, seed)
    for name, policy in agent.policies().items():
        if tf.nest.flatten(policy.initial_state(1)):
            observation = setting.dataset.sample((episodes,), seed).observation
            yield timed(f"{name} in {episodes} episodes", policy.act, observation, policy.initial_state(episodes), seed)


def timed(name: str, function: Callable[..., object], *arguments: object) -> Work:
    """The compiled function called again and again with the same arguments."""
    compiled, start = tf.function(function, autograph=False), time.perf_counter()
    compiled(*arguments)

    def call(count: int) -> None:
        for _ in range(count):
            tf.nest.map_structure(lambda leaf: leaf.numpy(), compiled(*arguments))

    return Work(name, call, products_of(function, *arguments), time.perf_counter() - start)


def measure(works: Iterable[Work], steps: int, windows: int, work: int) -> list[dict[str, object]]:
    """One row for each; each window of steps is followed by one of the limit: noise meets both alike."""
    rows: list[dict[str, object]] = []
    for name, call, products, compile_seconds in works:
        machine = Machine(products, (tf.float32, tf.bfloat16), work)
        pairs = [(median_rate(call, steps, 1), machine.limit(products, tf.float32)) for _ in range(windows)]
        shares = sorted(rate / limit for rate, limit in pairs)
        rate, limit = (statistics.median(column) for column in zip(*pairs, strict=True))
        bfloat16_limit = machine.limit(products, tf.bfloat16)
        rows.append(
            {
                "stage": name,
                "steps_per_second": rate,
                "compile_seconds": compile_seconds,
                "multiply_adds_per_step": multiply_adds(products),
                "matrix_products_per_step": sum(products.values()),
                "float32_limit": limit,
                "bfloat16_limit": bfloat16_limit,
                "share_of_float32_limit": statistics.median(shares),
                "share_range": [shares[0], shares[-1]],
                "float32_gflops": 2e-9 * multiply_adds(products) * limit,
                "bfloat16_gflops": 2e-9 * multiply_adds(products) * bfloat16_limit,
            }
        )
    return rows


def preparation(task: Task, rows: int) -> dict[str, float]:
    """Time and memory of reading a dataset of `rows` random rows, as training reads it.

    Memory is how far the process's peak rises, so this must run before anything large does.
    """
    block, generator = 50_000, np.random.default_rng(0)
    observation, action = task.dimensions

    def blocks() -> Iterator[Rows]:
        for start in range(0, rows, block):
            size = min(block, rows - start)
            observations = generator.normal(size=(size + 1, observation)).astype(np.float32)
            actions = generator.uniform(-0.9, 0.9, (size, action)).astype(np.float32)
            rewards, index = generator.uniform(size=size).astype(np.float32), np.arange(start, start + size)
            timeouts = (index % 1000 == 999) | (index == rows - 1)
            yield Rows(observations[:-1], actions, rewards, np.zeros(size, bool), timeouts, observations[1:])

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.hdf5"
        write_hdf5(path, task.dimensions, rows, blocks(), dict)
        before, start = peak_memory(), time.perf_counter()
        dataset = load_dataset(str(path))
        seconds, size = time.perf_counter() - start, path.stat().st_size / 2**20
    assert len(dataset.transitions.reward) == rows
    return {"rows": rows, "seconds": seconds, "file_mib": size, "memory_mib": peak_memory() - before}


def peak_memory() -> float:
    """MiB that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def evaluation_seconds(setting: Setting, task_name: str, episodes: int) -> float:
    """Episodes of the untrained policy's mean action, run to the horizon however they end."""
    task, policy = (
        find_task(task_name),
        DeployedPolicy(setting.agent, setting.dataset.dimensions, setting.dataset.scaling),
    )

    def make() -> object:
        environment = make_environment(task)
        step = environment.step
        # an untrained policy falls at once; what is timed is `episodes` of full length
        environment.step = lambda action: (*step(action)[:2], False, False, {})
        return environment

    evaluator = Evaluator(make, task.horizon)
    start = time.perf_counter()
    evaluator.run(policy.way(policy.actions[0]), episodes, 0)
    return time.perf_counter() - start


def table(rows: Sequence[dict[str, object]]) -> str:
    """The rows in Markdown."""
    head = "| stage | steps/s | float32 limit | share (range) | bfloat16 limit | Mmadd/step | compile |"
    lines = [head, "|" + "---|" * 7]
    for row in rows:
        numbers: dict[str, Any] = row
        low, high = numbers["share_range"]
        lines.append(
            f"| {row['stage']} | {numbers['steps_per_second']:.1f} | {numbers['float32_limit']:.1f} | "
            f"{numbers['share_of_float32_limit']:.2f} ({low:.2f}-{high:.2f}) | {numbers['bfloat16_limit']:.1f} | "
            f"{numbers['multiply_adds_per_step'] / 1e6:.1f} | {numbers['compile_seconds']:.1f} s |"
        )
    return "\n".join(lines)


def compare(first: Setting, second: Setting, steps: int, windows: int) -> list[dict[str, object]]:
    """Ratios of the stages' speeds, second to first, from windows in alternation: noise meets both alike."""
    rows: list[dict[str, object]] = []
    for index, stage in enumerate(first.stages):
        if index >= len(second.stages) or second.stages[index].name != stage.name:
            continue
        pairs = [[median_rate(setting.calls[index], steps, 1) for setting in (first, second)] for _ in range(windows)]
        ratios = sorted(after / before for before, after in pairs)
        rows.append(
            {
                "stage": stage.name,
                "steps_per_second": [statistics.median(column) for column in zip(*pairs, strict=True)],
                "ratio": statistics.median(ratios),
                "ratio_range": [ratios[0], ratios[-1]],
            }
        )
    return rows


class Peer:
    """d3rlpy in an interpreter of its own (scripts/d3rlpy_worker.py), taking steps when told to."""

    def __init__(self, interpreter: str, algorithm: str, batch_size: int, dimensions: Dimensions, widths: str) -> None:
        worker = str(Path(__file__).with_name("d3rlpy_worker.py"))
        self._command = [interpreter, worker, algorithm, str(batch_size), *map(str, dimensions), widths]
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def rate(self, steps: int) -> float:
        """Steps per second of `steps` updates.

        Raises:
          UserError: if the interpreter cannot run d3rlpy, or d3rlpy has no such algorithm.
        """
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise UserError(f"--peer: {shlex.join(self._command)} ended; start it by hand to see why")
        return steps / float(answer)


def compare_with_peer(call: Callable[[int], object], peer: Peer, steps: int, windows: int) -> dict[str, object]:
    """Rates of a stage and of the peer, from windows in alternation; the peer's are a tenth as long."""
    share = max(1, steps // 10)
    peer.rate(share)  # what it prepares at its first steps
    pairs = [(median_rate(call, steps, 1), peer.rate(share)) for _ in range(windows)]
    ratios = sorted(ours / theirs for ours, theirs in pairs)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return {"steps_per_second": medians, "ratio": statistics.median(ratios), "ratio_range": [ratios[0], ratios[-1]]}


def main(argv: Sequence[str]) -> None:
    """The command."""
    del argv
    values = flags.FLAGS
    task = find_task(values.task)
    prepared = preparation(task, values.load_rows) if values.load_rows else None  # first: it measures the peak
    dataset = random_dataset(task.dimensions, values.rows)
    setting = Setting(values.gin_file, values.gin_bindings, dataset)
    if values.compare:
        other = Setting(values.gin_file, [*values.gin_bindings, *values.compare], dataset)
        content: dict[str, object] = {"compare": compare(setting, other, values.steps, values.windows)}
        for row in content["compare"]:  # type: ignore[attr-defined]
            print(f"{row['stage']}: {row['ratio']:.3f} times as fast, {row['ratio_range']}; {row['steps_per_second']}")
    elif values.peer:
        stage, call = setting.stages[-1], setting.calls[-1]
        batch_size = stage.draw(dataset, base_seed(0)).reward.shape[-1]
        peer = Peer(values.peer, values.peer_algorithm, batch_size, dataset.dimensions, values.peer_widths)
        content = {"peer": {"stage": stage.name, **compare_with_peer(call, peer, values.steps, values.windows)}}
        print(f"{stage.name} beside d3rlpy's {values.peer_algorithm}, batches of {batch_size}: {content['peer']}")
    else:
        rows = measure(stage_work(setting), values.steps, values.windows, int(values.work * 1e6))
        calls = max(1, values.steps // 100)  # each of them is as much work as many gradient steps
        rows += measure(model_work(setting, 20), calls, values.windows, int(values.work * 1e6))
        seconds = evaluation_seconds(setting, values.task, values.episodes) if values.episodes else None
        content = {"stages": rows, "evaluation_seconds": seconds, "evaluation_episodes": values.episodes}
        content["preparation"] = prepared
        print(table(rows))
        if prepared is not None:
            print(
                "preparation: {rows:,} rows, {file_mib:.0f} MiB, in {seconds:.1f} s and {memory_mib:.0f} MiB".format(
                    **prepared
                )
            )
        if seconds is not None:
            print(f"evaluation: {values.episodes} episodes of full length in {seconds:.1f} s")
    content["peak_memory_mib"] = peak_memory()
    print(f"peak memory: {content['peak_memory_mib']:.0f} MiB")
    if values.output:
        write_json(Path(values.output), {**content, "host": host_facts()})
        print(f"results: {values.output}")


if __name__ == "__main__":
    flags.DEFINE_multi_string("gin_file", None, "gin file; may repeat.", required=True)
    flags.DEFINE_multi_string("gin_bindings", [], "gin binding; may repeat.")
    flags.DEFINE_multi_string("compare", [], "gin binding of a second setting, measured in alternation; may repeat.")
    flags.DEFINE_string("peer", None, "Interpreter with d3rlpy 2.8.1; the last stage is measured beside it.")
    flags.DEFINE_string("peer_algorithm", "sac", "d3rlpy's algorithm: bc, sac, td3, cql, bear or bcq.")
    flags.DEFINE_string("peer_widths", "256,256", "Hidden layers of all networks there.")
    flags.DEFINE_string("task", "Hopper-v4", "Task whose sizes the data have, and whose environment is timed.")
    flags.DEFINE_integer("rows", 100_000, "Transitions.", lower_bound=100)
    flags.DEFINE_integer("load_rows", 0, "Rows of a dataset whose reading is timed first; 0 for none.", lower_bound=0)
    flags.DEFINE_integer("steps", 500, "Gradient steps in a window.", lower_bound=1)
    flags.DEFINE_integer("windows", 7, "Windows; medians are over them.", lower_bound=1)
    flags.DEFINE_float("work", 2000.0, "Million multiply-adds in one measurement of a matrix product.")
    flags.DEFINE_integer("episodes", 100, "Episodes of the timed evaluation; 0 for none.", lower_bound=0)
    flags.DEFINE_string("output", None, "JSON file to write.")
    run_command(main)
