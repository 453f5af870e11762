import errno
import hashlib
import io
import json
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from brac_plus_tf.core import files
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import write_atomically
from brac_plus_tf.runs.checkpoints import Checkpoints, Position, load_state, save_state

# smallest subnormal, largest finite value, both zeros: what a detour through text or == would lose
AWKWARD = np.array([1e-45, 3.4028235e38, -0.0, 0.0], np.float32)
RECORD = {"stage": 2, "step": 17, "note": "päß", "nested": {"values": [1, 2.5, None, True]}}


def variables() -> dict[str, tf.Variable]:
    return {
        "awkward": tf.Variable(AWKWARD),
        "matrix": tf.Variable([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]]),
        "iterations": tf.Variable(2**53 + 1, dtype=tf.int64),  # not representable as a float
        "keras": tf.keras.Variable(np.float32(0.7)),
    }


def blank() -> dict[str, tf.Variable]:
    return {
        name: type(variable)(np.full(variable.shape, -5), dtype=variable.dtype)
        for name, variable in variables().items()
    }


def assert_blank(state: dict[str, tf.Variable]) -> None:
    for name, variable in state.items():
        assert (variable.numpy() == -5).all(), name


@pytest.fixture
def path(tmp_path) -> pathlib.Path:
    path = tmp_path / "state.safetensors"
    save_state(path, variables(), RECORD)
    return path


def test_round_trip_is_exact_to_the_bit(path):
    state = blank()
    assert load_state(path, state) == RECORD
    for name, variable in variables().items():
        assert state[name].numpy().tobytes() == variable.numpy().tobytes(), name
        assert state[name].numpy().dtype == variable.numpy().dtype, name
    assert int(state["iterations"].numpy()) == 9007199254740993


def test_the_file_is_safetensors_as_others_read_it(path):
    """Layout by hand: 8 bytes little-endian header size, JSON header, data at the header's offsets."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    start, end = header["matrix"]["data_offsets"]
    assert (header["matrix"]["dtype"], header["matrix"]["shape"]) == ("F32", [2, 3])
    values = np.frombuffer(content[8 + size + start : 8 + size + end], "<f4")
    np.testing.assert_array_equal(values, np.float32([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert header["iterations"]["dtype"] == "I64"
    assert json.loads(header["__metadata__"]["record"]) == RECORD


def test_the_file_keeps_the_values_of_the_moment_it_was_written(tmp_path):
    state = variables()
    save_state(tmp_path / "before", state, {})
    state["matrix"].assign_add(tf.ones([2, 3]))
    restored = blank()
    load_state(tmp_path / "before", restored)
    assert restored["matrix"].numpy()[0, 0] == np.float32(0.1)


@pytest.mark.parametrize("kept", [0, 7, 8, 40, -1, -30])
def test_a_truncated_file_is_refused(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    state = blank()
    with pytest.raises(UserError, match=str(path)):
        load_state(path, state)
    assert_blank(state)


def test_flipped_bits_are_noticed(path):
    """One bit of each byte in turn, of the length, the header and the data: none may pass."""
    content = path.read_bytes()
    state = blank()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << (position % 8)
        path.write_bytes(bytes(damaged))
        with pytest.raises(UserError, match=str(path)):
            load_state(path, state)
    assert_blank(state)
    path.write_bytes(content)
    assert load_state(path, state) == RECORD


def test_appended_bytes_are_refused(path):
    path.write_bytes(path.read_bytes() + b"\0" * 4)
    with pytest.raises(UserError, match=str(path)):
        load_state(path, blank())


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path / "absent")):
        load_state(tmp_path / "absent", blank())


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        load_state(tmp_path, blank())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("matrix"), "matrix"),
        (lambda state: state.update(extra=tf.Variable([1.0])), "extra"),
        (lambda state: state.update(matrix=tf.Variable(tf.zeros([3, 2]))), "matrix"),
        (lambda state: state.update(iterations=tf.Variable(-5, dtype=tf.int32)), "iterations"),
        (lambda state: state.update(awkward=tf.Variable(tf.fill([4], np.float64(-5)))), "awkward"),
    ],
    ids=["missing", "extra", "shape", "integer type", "float type"],
)
def test_other_variables_are_refused_by_name(path, change, named):
    state = blank()
    change(state)
    with pytest.raises(UserError, match=named) as error:
        load_state(path, state)
    assert str(path) in str(error.value)
    state.pop("extra", None)
    state = {name: variable for name, variable in state.items() if variable.shape != (3, 2)}
    assert_blank(state)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_kept(tmp_path, broken):
    """A run that goes on from such a file could only fail again."""
    path = tmp_path / "state"
    save_state(path, {"weight": tf.Variable([1.0, 2.0])}, {})
    before = path.read_bytes()
    with pytest.raises(UserError, match="weight"):
        save_state(path, {"step": tf.Variable(3, dtype=tf.int64), "weight": tf.Variable([1.0, broken])}, {})
    assert path.read_bytes() == before


class FullDisk(io.FileIO):
    """A file on a device that takes ten bytes."""

    def write(self, content) -> int:
        super().write(bytes(content[:10]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail(*arguments):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    ("target", "name", "replacement", "reason"),
    [
        (files, "open", FullDisk, "No space left"),
        (os, "fsync", fail, "Input/output error"),
        (os, "replace", fail, "Input/output error"),
    ],
)
def test_a_failed_write_leaves_the_old_file_alone(path, monkeypatch, target, name, replacement, reason):
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(target, name, replacement, raising=False)
        with pytest.raises(UserError, match=reason) as error:
            save_state(path, blank(), {})
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_content_is_synced_before_it_takes_the_name(path, monkeypatch):
    """After a power cut the name must not point at bytes that never reached the disk."""
    order, sync, replace = [], os.fsync, os.replace

    def note_sync(descriptor):
        order.append(("sync", os.fstat(descriptor).st_size))
        sync(descriptor)

    def note_replace(source, target):
        order.append(("replace", hashlib.sha256(pathlib.Path(source).read_bytes()).hexdigest()))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(path, b"content")
    assert order == [("sync", 7), ("replace", hashlib.sha256(b"content").hexdigest())]
    assert path.read_bytes() == b"content"


def test_a_missing_directory_is_reported(tmp_path):
    with pytest.raises(UserError, match="No such file or directory"):
        write_atomically(tmp_path / "absent" / "file", b"")


def test_a_runs_newest_three_are_kept_by_their_positions(tmp_path):
    """Not by their names: stage 10 comes after stage 9."""
    checkpoints, value = Checkpoints(tmp_path), tf.Variable(0.0)
    positions = [Position(2, 40), Position(9, 0), Position(9, 5), Position(10, 0)]
    for index, position in enumerate(positions):
        value.assign(float(index))
        checkpoints.save({"value": value}, position, {"index": index})
        kept = sorted(path.name for path in tmp_path.iterdir())
        assert kept == sorted(f"{p.stage}-{p.step:09d}.safetensors" for p in positions[max(0, index - 2) : index + 1])
    assert checkpoints.restore({"value": value}) == (Position(10, 0), {"index": 3}) and value.numpy() == 3.0
    assert checkpoints.newest_record() == {"index": 3}


def test_where_the_newest_is_damaged_the_one_before_it_is_taken(tmp_path):
    checkpoints, value = Checkpoints(tmp_path), tf.Variable(0.0)
    for step in (1, 2, 3):
        value.assign(float(step))
        checkpoints.save({"value": value}, Position(0, step), {})
    for step in (3, 2):
        (tmp_path / f"0-{step:09d}.safetensors").write_bytes(b"damaged")
        assert checkpoints.restore({"value": value}) == (Position(0, step - 1), {}) and value.numpy() == step - 1
    (tmp_path / "0-000000001.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match="no usable checkpoint"):
        checkpoints.restore({"value": value})
