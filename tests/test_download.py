import http.server
import os
import socket
import sys
import threading

import pooch
import pytest
from dataset_files import write_file

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data import d4rl_names, download
from brac_plus_tf.data.d4rl_names import dataset_url, find_d4rl_file, is_d4rl_name
from brac_plus_tf.data.download import FileSearch, fetch


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` on 127.0.0.1 and counts requests."""

    daemon_threads = True

    def __init__(self, body: bytes):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.body = body
        self.requests = 0
        self.status = 200
        self.break_off_after: int | None = None
        self.announces_length = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/folder/data.hdf5"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.requests += 1
        if self.server.status != 200:
            self.send_error(self.server.status)
            return
        self.send_response(200)
        if self.server.announces_length:
            self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body[: self.server.break_off_after])

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
    assert os.listdir(path.parent) == ["data.hdf5"] and server.requests == 1


def test_a_log_says_how_much_arrived(server, tmp_path, capsys):
    server.body = server.body + bytes(2_500_000)  # HDF5 takes what comes after its end
    fetch(server.url, str(tmp_path / "data.hdf5"))
    assert capsys.readouterr().out.startswith("data.hdf5: 2 MB in 0:00:0")


def test_does_not_fetch_what_is_there(server, tmp_path):
    (tmp_path / "data.hdf5").write_bytes(b"mine")
    fetch(server.url, str(tmp_path / "data.hdf5"))
    assert (tmp_path / "data.hdf5").read_bytes() == b"mine" and server.requests == 0


def test_a_broken_off_transfer_leaves_nothing(server, tmp_path):
    path = tmp_path / "data.hdf5"
    server.break_off_after = 10_000
    message = error_of(fetch, server.url, str(path))
    assert message.startswith(f"{server.url}: download failed (") and "10000 bytes read" in message
    assert os.listdir(tmp_path) == ["original.hdf5"]
    server.break_off_after = None
    fetch(server.url, str(path))
    assert path.read_bytes() == server.body and server.requests == 2


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
    assert server.url in message and f"{status} " in message
    assert os.listdir(tmp_path) == ["original.hdf5"]


def test_a_server_that_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(download, "_TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/data.hdf5"
        assert "timed out" in error_of(fetch, url, str(tmp_path / "data.hdf5"))
    assert "refused" in error_of(fetch, url, str(tmp_path / "data.hdf5"))


def test_a_disk_that_is_full(server, tmp_path, monkeypatch):
    def fail(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fail)
    message = error_of(fetch, server.url, str(tmp_path / "data.hdf5"))
    assert message.startswith(f"{tmp_path / 'data.hdf5'}: cannot be written (No space left on device)")
    assert os.listdir(tmp_path) == ["original.hdf5"]


def test_unusable_addresses_and_directories(server, tmp_path):
    assert "No connection adapters" in error_of(fetch, "file:///etc/hostname", str(tmp_path / "data.hdf5"))
    (tmp_path / "file").write_text("")
    assert "Not a directory" in error_of(fetch, server.url, str(tmp_path / "file" / "folder" / "data.hdf5"))
    assert sorted(os.listdir(tmp_path)) == ["file", "original.hdf5"]


# Names of D4RL --------------------------------------------------------------------------------------------------------


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
    assert is_d4rl_name(source) is expected


def test_an_existing_file_is_no_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hopper-medium-v0").write_bytes(b"")
    assert not is_d4rl_name("hopper-medium-v0")


@pytest.fixture
def without_d4rl(monkeypatch):
    monkeypatch.setattr(d4rl_names, "_installed_urls", dict)


def test_directories_are_searched_in_order(tmp_path, monkeypatch, without_d4rl):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "variable"))
    folders = [tmp_path / "home" / ".d4rl" / "datasets", tmp_path / "variable", tmp_path / "given"]
    name, given = "hopper-medium-replay-v0", FileSearch(str(tmp_path / "given"))
    message = error_of(find_d4rl_file, name, given)
    assert "hopper_mixed.hdf5 is not in " + ", ".join(str(folder) for folder in folders[::-1]) in message
    assert "FileSearch.download = True" in message and "http://" in message
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "hopper_mixed.hdf5").write_bytes(b"")
        assert find_d4rl_file(name, given) == str(folder / "hopper_mixed.hdf5")


def test_a_name_is_fetched_only_when_asked(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    monkeypatch.setattr(d4rl_names, "_installed_urls", lambda: {"own-data-v3": server.url})
    error_of(find_d4rl_file, "own-data-v3", FileSearch())
    assert server.requests == 0
    path = find_d4rl_file("own-data-v3", FileSearch(download=True))
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
