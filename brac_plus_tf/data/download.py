"""Files that are looked for in folders, and fetched from their address if the user asks for it."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import gin
import h5py

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.files import written_atomically
from brac_plus_tf.core.progress import Progress
from brac_plus_tf.core.settings import HyperParameters

_TIMEOUT_SECONDS = 30.0
_BLOCK_BYTES = 2**18


@gin.register
@dataclasses.dataclass(frozen=True)
class FileSearch(HyperParameters):
    """Where the files of data are looked for that are not named by their path, and whether they may be fetched.

    data_dir: the first folder to look in. download: fetch a file that is in no folder, into the first one.
    """

    data_dir: str | None = None
    download: bool = False

    def find(self, name: str, url: str, folders: Sequence[str]) -> str:
        """The path of the file that is called as the end of its address is.

        Args:
          name: of the data, for messages. folders: those to look in after `data_dir`; ~ is the user's own.
        Raises:
          UserError: if the file is nowhere and may not be fetched, or the download fails.
        """
        places = [self.data_dir, *folders] if self.data_dir else folders
        paths = [os.path.join(os.path.expanduser(folder), os.path.basename(url)) for folder in places]
        for path in paths:
            if os.path.exists(path):
                return path
        if not self.download:
            looked_in = ", ".join(os.path.dirname(path) for path in paths)
            raise UserError(
                f"{name}: its file {os.path.basename(url)} is not in {looked_in}; "
                f"put it there, or set FileSearch.download = True to fetch {url}"
            )
        fetch(url, paths[0])
        return paths[0]


def fetch(url: str, path: str) -> None:
    """Downloads an HDF5 file to `path`, which appears only when it is whole. Does nothing if `path` exists.

    Raises:
      UserError: if the address does not answer, the transfer breaks off, what arrived is no whole HDF5 file, or the
        folder cannot be written.
    """
    if os.path.exists(path):
        return
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
    with written_atomically(Path(path)) as temporary:
        _receive(url, str(temporary))
        try:
            h5py.File(temporary, "r").close()  # an error page does not open, nor does the beginning of a file
        except OSError as error:
            raise UserError(f"{url}: what arrived is not a whole HDF5 file and was removed; try again") from error


def _receive(url: str, path: str) -> None:
    import pooch  # takes a while to load, which every other run would wait for
    import requests

    with Progress(os.path.basename(url), None, "MB") as progress:
        report = _Report(progress)
        download = pooch.HTTPDownloader(progressbar=report, chunk_size=_BLOCK_BYTES, timeout=_TIMEOUT_SECONDS)
        try:
            download(url, path, None)
        except requests.RequestException as error:  # an OSError, too, but no fault of the disk
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"{url}: download failed ({reason}); check address and network, and try again") from error


class _Report:
    """What pooch calls in place of its own bar, which it resets and fills once more at the end."""

    total = 0  # bytes, 0 if the server does not say; set by pooch

    def __init__(self, progress: Progress) -> None:
        self._progress, self._bytes, self._ended = progress, 0, False

    def update(self, size: int) -> None:
        if self._ended:
            return
        if not self._bytes and self.total:
            self._progress.note(f"of {self.total / 1e6:,.0f} MB")
        self._bytes += size
        self._progress.advance(int(self._bytes / 1e6) - self._progress.done)

    def reset(self) -> None:
        self._ended = True

    def close(self) -> None:
        pass
