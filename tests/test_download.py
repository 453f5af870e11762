import fcntl
import http.server
import os
import socket
import sys
import threading

import pytest
from dataset_files import write_file

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data import download as dataset_download
from brac_plus_tf.data.download import dataset_url, fetch, find_dataset_file, is_dataset_name


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` on 127.0.0.1; `requests` holds the Range header of each request (None: whole file)."""

    daemon_threads = True

    def __init__(self, body: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = body
        self.requests: list[str | None] = []
        self.knows_ranges = True
        self.status = 200
        self.break_off_after: int | None = None
        self.announces_length = True
        self.wrong_start = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/folder/data.hdf5"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append(wanted)
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        start = 0
        if wanted and self.server.knows_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(self.server.body):
                self.send_error(416)
                return
            start += self.server.wrong_start
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(self.server.body) - 1}/{len(self.server.body)}")
        else:
            self.send_response(200)
        rest = self.server.body[start:]
        if self.server.announces_length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest if self.server.break_off_after is None else rest[: self.server.break_off_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with open(write_file(tmp_path / "original.hdf5", rows=2000), "rb") as file:
        running = Server(file.read())
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetches_a_whole_file_into_a_new_directory(server, tmp_path):
    path = tmp_path / "new" / "data.hdf5"
    fetch(server.url, str(path))
    assert path.read_bytes() == server.body
    assert os.listdir(path.parent) == ["data.hdf5"] and server.requests == [None]


def test_does_not_fetch_what_is_there(server, tmp_path):
    (tmp_path / "data.hdf5").write_bytes(b"mine")
    fetch(server.url, str(tmp_path / "data.hdf5"))
    assert (tmp_path / "data.hdf5").read_bytes() == b"mine" and server.requests == []


def test_a_broken_off_transfer_is_continued_where_it_ended(server, tmp_path):
    path = tmp_path / "data.hdf5"
    server.break_off_after = 10_000
    message = error_of(fetch, server.url, str(path))
    assert server.url in message and f"ended after 10000 of {len(server.body)} bytes" in message
    assert not path.exists() and (tmp_path / "data.hdf5.part").read_bytes() == server.body[:10_000]
    error_of(fetch, server.url, str(path))
    server.break_off_after = None
    fetch(server.url, str(path))
    assert path.read_bytes() == server.body
    assert server.requests == [None, "bytes=10000-", "bytes=20000-"]
    assert not (tmp_path / "data.hdf5.part").exists()


def test_a_server_without_ranges_sends_all_again(server, tmp_path):
    path = tmp_path / "data.hdf5"
    server.knows_ranges = False
    (tmp_path / "data.hdf5.part").write_bytes(b"x" * 10_000)
    fetch(server.url, str(path))
    assert path.read_bytes() == server.body and server.requests == ["bytes=10000-"]


def test_a_server_that_continues_elsewhere_is_refused(server, tmp_path):
    (tmp_path / "data.hdf5.part").write_bytes(server.body[:100])
    server.wrong_start = 5
    assert "asked for bytes from 100" in error_of(fetch, server.url, str(tmp_path / "data.hdf5"))
    assert (tmp_path / "data.hdf5.part").read_bytes() == server.body[:100]


def test_a_part_that_is_already_whole_becomes_the_file(server, tmp_path):
    (tmp_path / "data.hdf5.part").write_bytes(server.body)
    fetch(server.url, str(tmp_path / "data.hdf5"))
    assert (tmp_path / "data.hdf5").read_bytes() == server.body


def test_a_truncated_body_of_unknown_length_never_becomes_the_file(server, tmp_path):
    server.announces_length = False
    server.break_off_after = 10_000
    assert "not a whole HDF5 file" in error_of(fetch, server.url, str(tmp_path / "data.hdf5"))
    assert os.listdir(tmp_path) == ["original.hdf5"]


def test_a_web_page_never_becomes_the_file(server, tmp_path):
    server.body = b"<html>please log in</html>"
    assert "not a whole HDF5 file" in error_of(fetch, server.url, str(tmp_path / "data.hdf5"))
    assert os.listdir(tmp_path) == ["original.hdf5"]


@pytest.mark.parametrize("status", [404, 500])
def test_error_statuses(server, tmp_path, status):
    server.status = status
    message = error_of(fetch, server.url, str(tmp_path / "data.hdf5"))
    assert server.url in message and f"HTTP Error {status}" in message
    assert not (tmp_path / "data.hdf5").exists()


def test_a_server_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(dataset_download, "_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/data.hdf5"
        assert "timed out" in error_of(fetch, url, str(tmp_path / "data.hdf5"))
    assert "refused" in error_of(fetch, url, str(tmp_path / "data.hdf5"))


def test_only_one_process_fetches_a_file(server, tmp_path):
    with open(tmp_path / "data.hdf5.part", "ab") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        assert "another process is fetching" in error_of(fetch, server.url, str(tmp_path / "data.hdf5"))
    assert server.requests == []


def test_unusable_addresses_and_directories(server, tmp_path):
    assert "only http and https" in error_of(fetch, "file:///etc/hostname", str(tmp_path / "data.hdf5"))
    (tmp_path / "file").write_text("")
    assert "Not a directory" in error_of(fetch, server.url, str(tmp_path / "file" / "folder" / "data.hdf5"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hopper-medium-replay-v0", True),
        ("pen-human-v1", True),
        ("hopper-medium-replay.hdf5", False),
        ("data/hopper-medium-v0", False),
        ("Hopper-v4", False),
    ],
)
def test_which_sources_are_names(source, expected):
    assert is_dataset_name(source) is expected


def test_an_existing_file_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hopper-medium-v0").write_bytes(b"")
    assert not is_dataset_name("hopper-medium-v0")


@pytest.fixture
def without_d4rl(monkeypatch):
    monkeypatch.setattr(dataset_download, "_installed_urls", dict)


def test_directories_are_searched_in_order(tmp_path, monkeypatch, without_d4rl):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "variable"))
    folders = [tmp_path / "home" / ".d4rl" / "datasets", tmp_path / "variable", tmp_path / "given"]
    name, given = "hopper-medium-replay-v0", str(tmp_path / "given")
    message = error_of(find_dataset_file, name, given)
    assert "hopper_mixed.hdf5 is not in " + ", ".join(str(folder) for folder in folders[::-1]) in message
    assert "download=True" in message and "http://" in message
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "hopper_mixed.hdf5").write_bytes(b"")
        assert find_dataset_file(name, given) == str(folder / "hopper_mixed.hdf5")


def test_paths_stay_as_they_are():
    assert find_dataset_file("some/file.hdf5", download=True) == "some/file.hdf5"


def test_a_name_is_fetched_only_when_asked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    monkeypatch.setattr(dataset_download, "_installed_urls", lambda: {"own-data-v3": server.url})
    error_of(find_dataset_file, "own-data-v3")
    assert server.requests == []
    path = find_dataset_file("own-data-v3", download=True)
    assert path == str(tmp_path / "home" / ".d4rl" / "datasets" / "data.hdf5")
    with open(path, "rb") as file:
        assert file.read() == server.body


def test_addresses_of_an_installed_d4rl_come_first_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "d4rl"
    package.mkdir()
    (package / "__init__.py").write_text("raise Exception('no simulator')")
    (package / "infos.py").write_text("DATASET_URLS = {'hopper-medium-v0': 'http://mirror/other.hdf5'}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "d4rl", raising=False)
    assert dataset_url("hopper-medium-v0") == "http://mirror/other.hdf5"
    assert dataset_url("hopper-random-v0").endswith("/hopper_random.hdf5")
    assert "d4rl" not in sys.modules
    (package / "infos.py").write_text("raise Exception('broken')")
    assert dataset_url("hopper-medium-v0").endswith("/gym_mujoco/hopper_medium.hdf5")


def test_unknown_names(without_d4rl, monkeypatch):
    assert "hopper-medum-v0" in error_of(dataset_url, "hopper-medum-v0")
    assert "no address is known" in error_of(dataset_url, "Hopper-v4")
