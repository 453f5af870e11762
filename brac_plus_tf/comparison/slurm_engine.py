"""Runs as jobs of a SLURM cluster, by submitit."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from brac_plus_tf.comparison.engines import log_error
from brac_plus_tf.comparison.workers import Order, Worker, order
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra
from brac_plus_tf.core.files import write_atomically


class SlurmEngine:
    """Each run is a job of its own, which outlives us: called again, we find the jobs of before by their numbers."""

    logs = True

    def __init__(self, folder: Path, cores: int, options: Mapping[str, str], cluster: str = "slurm") -> None:
        """Args: folder: for the jobs' own files, seen by all machines. options: of submitit's `update_parameters`, such
        as slurm_partition and timeout_min. cluster: submitit's name of it.

        Raises:
          UserError: if submitit is not installed, there is no SLURM or it knows no such option.
        """
        submitit = import_extra("submitit", "slurm")
        self._submitit, self._folder, self._cores = submitit, folder.absolute(), cores
        try:
            self._executor = submitit.AutoExecutor(folder=self._folder, cluster=cluster)
            numbers = {name: int(value) if value.isdigit() else value for name, value in options.items()}
            self._executor.update_parameters(**{"cpus_per_task": cores, "timeout_min": 24 * 60, **numbers})
        except (RuntimeError, NameError, TypeError) as error:
            raise UserError(f"--engine=slurm: {str(error).splitlines()[0]}") from error

    def has_room(self) -> bool:
        """SLURM has a queue."""
        return True

    def start(self, arguments: Sequence[str], directory: Path, log: Path | None) -> "SlurmTraining":
        """See `Engine`."""
        assert log is not None
        number = directory.with_name(f"{directory.name}.job")
        job = self._submitted_before(number)
        if job is None:
            given = order(arguments, directory, log, self._cores)
            self._executor.update_parameters(name=f"brac_{directory.parent.name}_{directory.name}")
            try:
                job = self._executor.submit(Job(given))
            except self._submitit.core.utils.FailedJobError as error:
                raise UserError(f"--engine=slurm: {str(error).strip().splitlines()[-1]}") from error
            number.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(number, f"{job.job_id}\n".encode())
        return SlurmTraining(self._submitit, job, number, log)

    def close(self) -> None:
        """Nothing is held."""

    def _submitted_before(self, number: Path) -> Any:
        """The job that an earlier call gave this run, if it is not over."""
        if not number.exists():
            return None
        job = self._submitit.SlurmJob(folder=self._folder, job_id=number.read_text().strip())
        return None if job.done(force_check=True) else job


class Job:
    """What a job does. SLURM's warning before a time limit or a preemption queues it again, to go on."""

    def __init__(self, given: Order) -> None:
        self.given = given

    def __call__(self) -> int:
        return Worker().run(self.given)

    def checkpoint(self) -> Any:
        """submitit's protocol: what is to be queued instead."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


class SlurmTraining:
    """A job, whose number is in a file as long as it is not over."""

    def __init__(self, submitit: Any, job: Any, number: Path, log: Path) -> None:
        self._submitit, self._job, self._number, self._log = submitit, job, number, log

    def poll(self) -> int | None:
        """See `Training`."""
        if not self._job.done():
            return None
        self._number.unlink(missing_ok=True)
        try:
            return int(self._job.result())
        except self._submitit.core.utils.FailedJobError as error:  # our own function raised
            log_error(self._log, str(error).strip().splitlines()[-1])
            return 1
        except self._submitit.core.utils.UncompletedJobError:
            return -signal.SIGKILL

    def stop(self, signal_number: int) -> None:
        """See `Training`; SLURM has one signal for it, SIGTERM, which means the same."""
        del signal_number
        self._job.cancel()
