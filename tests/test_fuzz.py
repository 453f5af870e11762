"""Random datasets and configurations: each is read, or refused with a UserError; nothing else may happen.

FUZZ_EXAMPLES sets how many of each are tried; what was once found stands as an @example.
"""

import os
import pathlib
import tempfile

import h5py
import numpy as np
from dataset_files import columns, small_task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import CONFIGS

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.data.scaling import by_returns, unit_range
from brac_plus_tf.runs import configuration
from brac_plus_tf.runs.experiment import Experiment

FUZZ = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="FUZZ_EXAMPLES" not in os.environ,  # the suite itself tries the same ones each time
)


def load_or_refuse(path: str, **options) -> None:
    """What is loaded is consistent and finite."""
    try:
        dataset = load_dataset(path, small_task(), **options)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return
    count = dataset.number_of_transitions
    assert count > 0 and all(len(array) == count for array in dataset.transitions)
    assert all(np.isfinite(array).all() for array in dataset.transitions)
    assert (np.abs(dataset.transitions.action) <= 1.0).all()
    assert set(np.unique(dataset.transitions.discount)) <= {0.0, 1.0}


# Files whose bytes or whose contents are damaged ----------------------------------------------------------------------

VALID = columns(12) | {"next_observations": columns(12)["observations"]}


def valid_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.hdf5"
        with h5py.File(path, "w") as file:
            for key, array in VALID.items():
                file.create_dataset(key, data=array, compression="gzip" if array.ndim == 2 else None)
            file.attrs["env_id"] = "Hopper-v4"
        return path.read_bytes()


BYTES = valid_bytes()


@FUZZ
@given(
    st.lists(st.tuples(st.integers(0, len(BYTES) - 1), st.integers(0, 255)), max_size=12),
    st.integers(0, len(BYTES)),
    st.binary(max_size=8),
)
def test_damaged_bytes(changes, length, tail):
    content = bytearray(BYTES)
    for position, value in changes:
        content[position] = value
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.hdf5"
        path.write_bytes(bytes(content) if length == 0 else bytes(content[:length]) + tail)
        load_or_refuse(str(path))


numbers = st.sampled_from(["f2", "f4", "f8", "i1", "i4", "i8", "u1", "u8", "?", "c8", "S3"]).map(np.dtype)
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=13)
contents = st.one_of(
    st.none(),
    numbers.flatmap(lambda kind: hnp.arrays(kind, shapes)),
    st.sampled_from(sorted(VALID)).map(VALID.get),
    st.sampled_from([12, 11]).flatmap(lambda rows: hnp.arrays(np.float32, (rows, 2))),
    hnp.arrays(bool, 12),
)


@FUZZ
@given(
    st.dictionaries(st.sampled_from([*VALID, "actions/extra", "metadata"]), contents, max_size=4),
    st.booleans(),
    st.sampled_from([None, unit_range, by_returns]),
)
def test_replaced_contents(changes, normalize, rescale):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.hdf5"
        with h5py.File(path, "w") as file:
            for key, array in (VALID | changes).items():
                if array is not None and key.split("/")[0] not in file:
                    file[key] = array
        load_or_refuse(str(path), normalize_observations=normalize, rewards=rescale)


@FUZZ
@given(
    hnp.arrays(np.float32, (12, 2), elements=st.floats(-1e6, 1e6, width=32)),
    hnp.arrays(np.float32, 12, elements=st.floats(-1e4, 1e4, width=32)),
)
def test_normalisation_can_be_undone(observations, rewards):
    """Within float32: half a unit in the last place of the largest entry, twice."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.hdf5"
        with h5py.File(path, "w") as file:
            for key, array in (columns(12) | {"observations": observations, "rewards": rewards}).items():
                file[key] = array
        try:
            dataset = load_dataset(str(path), small_task(), normalize_observations=True)
        except UserError:
            assert rewards.min() == rewards.max()  # the only fault that these files can have
            return
    scaling, batch = dataset.scaling, dataset.transitions
    again = batch.observation.astype(np.float64) * scaling.observation_scale + scaling.observation_shift
    tolerance = 4e-7 * max(1.0, np.abs(observations).max())
    np.testing.assert_allclose(again, observations, rtol=0.0, atol=tolerance)
    again = batch.reward.astype(np.float64) * scaling.reward_scale + scaling.reward_shift
    np.testing.assert_allclose(again, rewards, rtol=0.0, atol=4e-7 * np.abs(rewards).max())


# Configurations -------------------------------------------------------------------------------------------------------

FILES = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.gin"))
LINES = sorted({line for file in FILES for line in (CONFIGS / file).read_text().splitlines() if line.strip()})
values = st.one_of(
    st.integers(-3, 10**6),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 9), max_size=3),
    st.tuples(st.floats(), st.floats()),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=1),
).map(repr)
references = st.sampled_from(
    ["@Actor", "@Actor()", "@heaviside", "@heaviside()", "@x/Fit()", "%macro", "@BRACPlus()", "@"]
)
keys = st.sampled_from(
    sorted({line.split("=")[0].strip() for line in LINES if "=" in line and not line.startswith("#")})
)
statements = st.one_of(
    st.sampled_from(LINES),
    st.builds("{} = {}".format, keys, st.one_of(values, references)),
    st.builds("{}{} = {}".format, st.text(alphabet="abAB./_%@ ", max_size=4), keys, values),
    st.text(max_size=30).filter(lambda text: "import" not in text),
)


@FUZZ
@given(st.sampled_from(FILES), st.lists(statements, max_size=3))
def test_random_bindings(file, bindings):
    try:
        configuration.build(Experiment, [file], ["Experiment.dataset = 'd.hdf5'", *bindings])
    except UserError as error:
        assert str(error)
