"""Reads a local Minari dataset, `minari:ID`, from its two files; needs no installed minari and no network.

The files are a stranger's, and minari's own loader runs code that they name: for a dataset whose metadata lack a space
it calls gymnasium.make with the recorded `env_spec`, whose entry point may be any function of any module, with any
arguments. So metadata.json is read here as plain JSON, of which the environment's id is only looked up among the
known tasks, and main_data.hdf5 through the checks of hdf5_arrays.py.

Layout (Minari 0.5, format hdf5): `$MINARI_DATASETS_PATH` or ~/.minari/datasets, then ID/data/metadata.json and
ID/data/main_data.hdf5 with one group `episode_i` for each episode of T steps: observations [T + 1, O], actions [T, A],
rewards, terminations, truncations [T]. The group's attribute `next_action` [A], if there is one, is what the data did
after the episode's last step; minari_writer.py says why. Nothing else in the files is touched.
"""

import json
import os
import re
from collections.abc import Mapping

import h5py
import numpy as np

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import check_regular_file
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.data.hdf5_arrays import check_declared_size, find_array, follow_hard_link, full_key, open_hdf5
from brac_plus_tf.data.precision import RoundingLoss
from brac_plus_tf.data.rows import COLUMNS, Kind, Rows, join_rows
from brac_plus_tf.data.statement import Statement, make_statement

PREFIX = "minari:"
NEXT_ACTION = "next_action"
_ARRAYS: dict[str, Kind] = {
    "observations": "vector",
    "actions": "vector",
    "rewards": "number",
    "terminations": "flag",
    "truncations": "flag",
}
_LARGEST_METADATA_BYTES = 2**24  # Minari's own are a few kB; bounds of each entry of a large space are in them


def datasets_root() -> str:
    """The directory of all local Minari datasets, whether it exists or not."""
    return os.environ.get("MINARI_DATASETS_PATH") or os.path.expanduser(os.path.join("~", ".minari", "datasets"))


def dataset_directory(dataset_id: str) -> str:
    """Where the local dataset of that ID is, or would be.

    Raises:
      UserError: if it is no ID, (namespace/)name-v(number); what is one leads nowhere else.
    """
    # minari itself knows no namespace of a single character
    if not re.fullmatch(r"(?!./[^/]*$)([\w-]+/)*[\w-]+-v\d+", dataset_id):
        raise UserError(
            f"{dataset_id!r} is no Minari ID: write name-v0 or namespace/name-v0, of letters, digits, - and _; "
            f"a namespace has two or more of them"
        )
    return os.path.join(datasets_root(), *dataset_id.split("/"))


def data_files(source: str) -> list[str]:
    """The two files of `minari:ID`: metadata.json, main_data.hdf5.

    Raises:
      UserError: if it is no ID, or there is no such dataset.
    """
    dataset_id = source.removeprefix(PREFIX)
    folder = os.path.join(dataset_directory(dataset_id), "data")
    if not os.path.isdir(folder):
        raise UserError(
            f"{source}: no such dataset in {datasets_root()}; set MINARI_DATASETS_PATH, or fetch it yourself: "
            f"minari download {dataset_id}"
        )
    return [os.path.join(folder, name) for name in ("metadata.json", "main_data.hdf5")]


def statement(source: str) -> Statement:
    """What the recorded environment specification and action space say.

    Raises:
      UserError: if the dataset or its metadata cannot be read.
    """
    path = data_files(source)[0]
    metadata = _read_metadata(path)
    specification = _json_object(metadata.get("env_spec"))
    space = _json_object(metadata.get("action_space"))
    found = {
        "action_low": space.get("low"),
        "action_high": space.get("high"),
        "horizon": specification.get("max_episode_steps"),
    }
    environment = specification.get("id")
    return make_statement(path, found.get, environment if isinstance(environment, str) else None)


def _json_object(text: object) -> dict:
    """The object that the text is; an empty one for anything else."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_rows(source: str, dimensions: Dimensions | None = None) -> Rows:
    """Reads and validates one dataset, its episodes one after the other, with next_observations.

    The last step of an episode with neither flag is a timeout, since its successor belongs to another episode; only
    in the very last episode it stays without a flag, i.e. unfinished.

    Args:
      source: `minari:ID`.
      dimensions: sizes the task expects; None accepts any.

    Raises:
      UserError: naming file, key and row, for anything missing, misshapen, non-numeric, non-finite or unreadable.
    """
    metadata_path, path = data_files(source)
    metadata = _read_metadata(metadata_path)
    _check_spaces(metadata, metadata_path)
    episodes, declared = list[Rows](), 0
    losses = {key: RoundingLoss() for key in _ARRAYS}  # over all episodes: within one, an entry may hardly vary
    with open_hdf5(path) as file:
        count = _episode_count(metadata, file, metadata_path, path)
        for index in range(count):
            group = follow_hard_link(file, path, f"episode_{index}")
            if not isinstance(group, h5py.Group):
                raise UserError(f"{path}: key 'episode_{index}' is not a group; write the dataset again with minari")
            episode, size = _read_episode(group, path, dimensions, declared, losses)
            declared, dimensions = declared + size, episode.dimensions
            if not episode.terminals[-1] and index + 1 < count:
                assert episode.timeouts is not None
                episode.timeouts[-1] = True
            episodes.append(episode)
    for key, loss in losses.items():
        loss.check(path, key)
    return join_rows(episodes, source)


def _read_episode(
    group: h5py.Group,
    path: str,
    dimensions: Dimensions | None,
    declared_before: int,
    losses: Mapping[str, RoundingLoss],
) -> tuple[Rows, int]:
    """An episode's T rows, and the bytes it declares."""
    arrays = {key: find_array(group, path, key, kind) for key, kind in _ARRAYS.items()}
    steps, name = arrays["rewards"].shape[0], full_key(group, "rewards")
    for key, array in arrays.items():
        more = key == "observations"
        what = "one more row than steps, its last state" if more else "one row per step"
        array.check_rows(steps + more, f"'{name}' has {steps}; it must have {what}")
    if dimensions is None:
        dimensions = Dimensions(*(arrays[key].shape[1] for key in ("observations", "actions")))
    arrays["observations"].check_width(dimensions.observation)
    arrays["actions"].check_width(dimensions.action)
    declared = sum(array.declared_bytes for array in arrays.values())
    # added up over the episodes: one group may stand in a file under many names
    check_declared_size(path, declared_before + declared)
    values = [array.read(losses[key]) for key, array in arrays.items()]
    columns = dict(zip(COLUMNS, [values[0][:-1], *values[1:], values[0][1:]], strict=True))
    known = NEXT_ACTION in group.attrs
    following = {steps - 1: _read_next_action(group, path, dimensions.action)} if known else {}
    return Rows.from_columns(columns, path, following), declared


def _read_next_action(group: h5py.Group, path: str, size: int) -> np.ndarray:
    attribute, name = group.attrs.get_id(NEXT_ACTION), full_key(group, NEXT_ACTION)
    if attribute.shape != (size,) or attribute.dtype.kind not in "iuf":
        raise UserError(f"{path}: attribute '{name}' must hold the {size} numbers of one action")
    action = np.asarray(group.attrs[NEXT_ACTION]).astype(np.float32)
    if not np.isfinite(action).all():
        raise UserError(f"{path}: attribute '{name}' is not finite; repair the data")
    return action


def _episode_count(metadata: dict, file: h5py.File, metadata_path: str, path: str) -> int:
    count = metadata.get("total_episodes")
    if type(count) is not int or count < 1:
        raise UserError(f"{metadata_path}: total_episodes is {count!r}; the dataset must hold at least one episode")
    if len(file) != count:
        raise UserError(
            f"{path}: holds {len(file)} episodes where metadata.json says {count}; copy or download the dataset again"
        )
    return count


def _check_spaces(metadata: dict, path: str) -> None:
    for key in ("observation_space", "action_space"):
        if key not in metadata:  # Minari would build the environment to find out; here the arrays have to do
            continue
        try:
            kind = json.loads(metadata[key])["type"]
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{path}: {key} is not a space as written by minari; download it again") from error
        if kind != "Box":
            raise UserError(
                f"{path}: {key} is of type {kind!r}, only Box is supported; record flat vectors of numbers "
                f"(gymnasium.wrappers.FlattenObservation, continuous actions)"
            )


def _read_metadata(path: str) -> dict:
    check_regular_file(path)
    if os.path.getsize(path) > _LARGEST_METADATA_BYTES:
        raise UserError(f"{path}: larger than any metadata of Minari; download the dataset again")
    try:
        with open(path, encoding="utf-8") as file:
            metadata = json.load(file)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy or download the dataset again") from error
    if not isinstance(metadata, dict):
        raise UserError(f"{path}: not an object of JSON; copy or download the dataset again")
    data_format = metadata.get("data_format", "hdf5")
    if data_format != "hdf5":
        raise UserError(f"{path}: data_format is {data_format!r}, only 'hdf5' is read; write it again in that format")
    return metadata
