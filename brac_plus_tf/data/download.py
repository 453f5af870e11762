"""Finds D4RL's dataset files by name, and fetches one when asked to."""

import fcntl
import http.client
import importlib.util
import os
import re
import runpy
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import BinaryIO

import h5py
from tqdm import tqdm

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import packaged
from brac_plus_tf.environments.tasks import find_task

_TIMEOUT_SECONDS = 30.0
_BLOCK_BYTES = 2**18


def is_dataset_name(source: str) -> bool:
    """Whether `source` looks like a D4RL dataset name (hopper-medium-replay-v0) and is not an existing file."""
    return re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+-v\d+", source) is not None and not os.path.exists(source)


def find_dataset_file(source: str, data_dir: str | None = None, download: bool = False) -> str:
    """The path of a source's file.

    A source that is not a D4RL name is a path or `minari:ID` and returned as it is, but for the package's own data,
    `quickstart/...`, which are found from anywhere. A D4RL name's file, under the base name of its URL, is looked for
    in `data_dir`, then in the environment variable D4RL_DATASET_DIR, then in ~/.d4rl/datasets.

    Args:
      source: path, `minari:ID` or D4RL dataset name. data_dir: first directory to look in. download: fetch a file that
        is in none of the directories, into the first of them.
    Raises:
      UserError: if a D4RL name is unknown, its file is nowhere, or the download fails.
    """
    if not is_dataset_name(source):
        bundled = packaged("quickstart") / os.path.basename(source)
        is_bundled = os.path.dirname(source) == "quickstart" and not os.path.exists(source) and bundled.exists()
        return str(bundled) if is_bundled else source
    url = dataset_url(source)
    candidates = (data_dir, os.environ.get("D4RL_DATASET_DIR"), "~/.d4rl/datasets")
    paths = [os.path.join(os.path.expanduser(folder), os.path.basename(url)) for folder in candidates if folder]
    for path in paths:
        if os.path.exists(path):
            return path
    if not download:
        folders = ", ".join(os.path.dirname(path) for path in paths)
        raise UserError(
            f"{source}: its file {os.path.basename(url)} is not in {folders}; "
            f"put it there, or allow download=True to fetch {url}"
        )
    fetch(url, paths[0])
    return paths[0]


def dataset_url(name: str) -> str:
    """URL of a D4RL dataset: from the installed d4rl package if there is one, otherwise from the table of tasks.

    Raises:
      UserError: if neither knows the name.
    """
    url = _installed_urls().get(name)
    if url is None:
        url = find_task(name).dataset_url
    if url is None:
        raise UserError(f"{name}: no address is known for this dataset; give the path of its file")
    return url


def _installed_urls() -> Mapping[str, str]:
    """DATASET_URLS of an installed d4rl, {} without one."""
    # Importing d4rl loads its simulators (which may raise any Exception) and creates a directory; its table of
    # addresses is a module of its own without imports.
    try:
        package = importlib.util.find_spec("d4rl")
        folders = list(package.submodule_search_locations or ()) if package else []
        return runpy.run_path(os.path.join(folders[0], "infos.py"))["DATASET_URLS"] if folders else {}
    except Exception:
        return {}


def fetch(url: str, path: str) -> None:
    """Downloads an HDF5 file to `path`, which appears only when it is whole.

    Bytes go to `path`.part. If the transfer breaks off they stay there, and the next call continues after them
    (HTTP Range; a server that does not support it sends the whole file again). Does nothing if `path` exists.

    Raises:
      UserError: if the address does not answer, the transfer breaks off, what arrived is no whole HDF5 file, the
        directory is not writable, or another process is fetching the same file.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: only http and https addresses are fetched")
    part_path = path + ".part"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(part_path, "ab") as part:
            try:
                fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError(f"{part_path}: another process is fetching this file; wait for it") from error
            # A process that held the lock until now may have put the whole file in place.
            if not os.path.exists(path):
                _receive(url, part)
                _check_whole(url, part_path)
                os.replace(part_path, path)
    except (OSError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise UserError(
            f"{url}: download to {path} failed ({reason}); check address and network, run again to continue"
        ) from error


def _receive(url: str, part: BinaryIO) -> None:
    """Appends the rest of the file to `part`, from its present end."""
    done = os.fstat(part.fileno()).st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        # 416: nothing lies beyond what is here already. Whether that is the whole file is checked afterwards.
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return
        raise
    with response:
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            content_range = response.headers.get("Content-Range", "")
            if not content_range.startswith(f"bytes {done}-"):
                raise OSError(f"asked for bytes from {done}, the server sent {content_range or 'an unknown range'}")
        else:
            part.truncate(0)
            done = 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length and length.isdigit() else None
        label = os.path.basename(url)
        with tqdm(total=total, initial=done, unit="B", unit_scale=True, unit_divisor=1024, desc=label) as progress:
            while block := response.read(_BLOCK_BYTES):
                part.write(block)
                progress.update(len(block))
                done += len(block)
    part.flush()
    if total is not None and done != total:
        raise OSError(f"the connection ended after {done} of {total} bytes")


def _check_whole(url: str, part_path: str) -> None:
    """Removes and refuses what does not open as HDF5: an error page, or a file that changed between two transfers."""
    try:
        # Without HDF5's own file lock, which would collide with the one held on the same file.
        h5py.File(part_path, "r", locking=False).close()
    except OSError as error:
        os.remove(part_path)
        raise UserError(f"{url}: what arrived is not a whole HDF5 file and was removed; try again") from error
