"""Runs on a Ray cluster, or on a local Ray if no address is given."""

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brac_plus_tf.comparison.engines import log_error
from brac_plus_tf.comparison.workers import Order, Worker, order
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra

_STORE = 100_000_000  # bytes of shared memory: results go by files, and containers have little of it


class RayEngine:
    """Each run is an actor that holds `cores` of the cluster; what does not fit waits in Ray's own queue."""

    logs = True

    def __init__(self, address: str | None, cores: int) -> None:
        """Args: address: of a cluster, such as 10.0.0.1:6379; None starts one on this machine's cores.

        Raises:
          UserError: if Ray is not installed or the cluster does not answer.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would call home
        ray = import_extra("ray", "ray")
        own: dict[str, Any] = {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": _STORE}
        try:
            # in a container Ray would count the machine's cores; on a cluster others have said how many there are
            more = {} if address else own | {"include_dashboard": False}
            ray.init(address or "local", log_to_driver=False, logging_level=logging.WARNING, **more)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"--ray_address={address}: {str(error).splitlines()[0]}") from error
        # two threads: one waits for the command, the other takes the order to stop it
        self._actor = ray.remote(Worker).options(num_cpus=cores, max_concurrency=2)
        self._ray, self._cores = ray, cores

    def has_room(self) -> bool:
        """Ray has a queue."""
        return True

    def start(self, arguments: Sequence[str], directory: Path, log: Path | None) -> "RayTraining":
        """See `Engine`."""
        assert log is not None
        return RayTraining(self._ray, self._actor.remote(), order(arguments, directory, log, self._cores))

    def close(self) -> None:
        """Leaves the cluster, or ends the local one."""
        self._ray.shutdown()


class RayTraining:
    """An actor, whose worker and machine may be lost."""

    def __init__(self, ray: Any, actor: Any, given: Order) -> None:
        self._ray, self._actor, self._log = ray, actor, Path(given.log)
        self._there = actor.__ray_ready__.remote()
        self._status = actor.run.remote(given)
        self._ended: int | None = None

    def poll(self) -> int | None:
        """See `Training`."""
        if self._ended is None and self._is_ready(self._status):
            try:
                self._ended = self._ray.get(self._status)
            except self._ray.exceptions.RayActorError:
                self._ended = -signal.SIGKILL
            except self._ray.exceptions.RayTaskError as error:
                log_error(self._log, error.cause)
                self._ended = 1
            self._ray.kill(self._actor)  # its place is free for the next one
        return self._ended

    def stop(self, signal_number: int) -> None:
        """See `Training`."""
        if self._is_ready(self._there):
            self._actor.stop.remote(signal_number)
        else:
            self._ray.kill(self._actor)

    def _is_ready(self, reference: Any) -> bool:
        return bool(self._ray.wait([reference], timeout=0)[0])
