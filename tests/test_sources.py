import hashlib

import pytest
from dataset_files import write_file
from minari_files import write_minari

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.sources import contents_sha256, source_label


def test_sha256_of_one_file_and_of_several_in_order(tmp_path):
    paths = [write_file(tmp_path / "a.hdf5"), write_file(tmp_path / "b.hdf5", rows=7)]
    first, second = (tmp_path / "a.hdf5").read_bytes(), (tmp_path / "b.hdf5").read_bytes()
    assert first != second
    assert contents_sha256(paths[:1]) == hashlib.sha256(first).hexdigest()
    assert contents_sha256(paths) == hashlib.sha256(first + second).hexdigest()
    with pytest.raises(UserError, match="no such file"):
        contents_sha256([str(tmp_path / "absent")])


def test_sha256_of_a_minari_dataset_is_that_of_its_files(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    data = write_minari(tmp_path / "robot" / "walk-v0")
    content = (data / "metadata.json").read_bytes() + (data / "main_data.hdf5").read_bytes()
    assert contents_sha256(["minari:robot/walk-v0"]) == hashlib.sha256(content).hexdigest()
    path = write_file(tmp_path / "a.hdf5")
    both = hashlib.sha256((tmp_path / "a.hdf5").read_bytes() + content).hexdigest()
    assert contents_sha256([path, "minari:robot/walk-v0"]) == both
    with pytest.raises(UserError, match="minari:robot/run-v0: no such dataset"):
        contents_sha256(["minari:robot/run-v0"])


@pytest.mark.parametrize(
    ("source", "label"),
    [
        ("hopper-medium-v0", "hopper-medium-v0"),
        ("some/where/data.hdf5", "data"),
        ("hopper-medium-v0.hdf5", "hopper-medium-v0"),
        # not the D4RL dataset's, to which published scores belong
        ("minari:hopper/medium-v0", "minari-hopper-medium-v0"),
        ("minari:D4RL/door/human-v2", "minari-D4RL-door-human-v2"),
    ],
)
def test_label(source, label):
    assert source_label(source) == label
