"""D4RL's names of datasets, and where their files are."""

import importlib.util
import os
import re
import runpy
from collections.abc import Mapping

from brac_plus_tf.core.errors import UserError
from brac_plus_tf.data.download import FileSearch
from brac_plus_tf.environments.tasks import find_task


def is_d4rl_name(name: str) -> bool:
    """Whether `name` looks like a D4RL dataset name (hopper-medium-replay-v0) and is not an existing file."""
    return re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+-v\d+", name) is not None and not os.path.exists(name)


def find_d4rl_file(name: str, search: FileSearch) -> str:
    """The path of a dataset's file; after the search's folder in $D4RL_DATASET_DIR and in ~/.d4rl/datasets.

    Raises:
      UserError: if the name is unknown, its file is nowhere, or the download fails.
    """
    folders = [os.environ.get("D4RL_DATASET_DIR"), "~/.d4rl/datasets"]
    return search.find(name, dataset_url(name), [folder for folder in folders if folder])


def dataset_url(name: str) -> str:
    """URL of a dataset: from the installed d4rl package if there is one, otherwise from the table of tasks.

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
