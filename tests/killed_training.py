"""Trains in one process after another, each killed by SIGKILL at a chosen moment, until one may finish.

killed_training.py MOMENT[,MOMENT...] TRAINING_ARGUMENTS...      a moment is kind:count, or `none` for no kill

Not a test itself: test_kills.py runs it as a `ForkedProcess`, which has imported everything and started no thread, so
that it can be forked again. It prints the exit status of each process.
"""

import os
import runpy
import signal
import sys
from collections import Counter

from brac_plus_tf.policies import rollouts, saved_policy
from brac_plus_tf.runs import checkpoints, metrics_log, outcome, run_record, session, trainer


def arm(moment: str) -> None:
    """Makes this process kill itself at the given moment."""
    kind, _, number = moment.partition(":")
    count: Counter[str] = Counter()

    def reached(what: str) -> bool:
        count[what] += 1
        return what == kind and count[what] == int(number)

    def die() -> None:
        sys.stdout.flush()
        os.kill(os.getpid(), signal.SIGKILL)

    def wrap(module, name, before=None, after=None):
        original = getattr(module, name)

        def wrapped(*arguments, **keywords):
            if before and reached(before):
                die()
            result = original(*arguments, **keywords)
            if after and reached(after):
                die()
            return result

        setattr(module, name, wrapped)

    replace, write_atomically, write_metrics = (
        os.replace,
        checkpoints.write_atomically,
        run_record.RunRecord.write_metrics,
    )

    def write_half(path, content):
        if reached("half written"):
            with open(path.with_name(f".{path.name}.{os.getpid()}.tmp"), "wb") as file:
                file.write(content[: len(content) // 2])
            die()
        write_atomically(path, content)

    def rename(source, target):
        if reached("before rename"):
            die()
        replace(source, target)
        if reached("after rename"):
            die()

    def write_half_a_row(self, stage, step, values):
        if reached("half a row"):
            name, value = next(iter(values.items()))
            with open(self.directory / "metrics.csv", "a") as file:
                file.write(f"{stage},{step},{name},{value!r}"[:-3])
            die()
        write_metrics(self, stage, step, values)

    for module in (checkpoints, metrics_log, run_record):
        module.write_atomically = write_half
    os.replace = rename
    run_record.RunRecord.write_metrics = write_half_a_row
    wrap(trainer._Training, "_take_steps", before="before steps", after="after steps")
    wrap(rollouts._Places, "_reset", before="episode")
    wrap(saved_policy, "place_directory", before="export")
    wrap(session.LivePolicyEvaluation, "final", before="final episodes")
    wrap(outcome, "write_json", before="final evaluation")
    wrap(run_record.RunRecord, "save", after="checkpoint")


def main() -> None:
    """Runs the command once for each moment."""
    moments, arguments = sys.argv[1].split(","), sys.argv[2:]
    for moment in moments:
        process = os.fork()
        if not process:
            if moment != "none":
                arm(moment)
            sys.argv = ["train", *arguments]
            sys.modules.pop("brac_plus_tf.train", None)
            runpy.run_module("brac_plus_tf.train", run_name="__main__", alter_sys=True)
            os._exit(0)
        print(f"\n{moment} {os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])}", flush=True)


if __name__ == "__main__":
    main()
