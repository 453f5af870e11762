"""Watches a long run from outside: its memory, open files and threads must not grow. Linux only.

python scripts/soak.py TRAINING_ARGUMENTS...      whatever brac_plus_tf.train takes; ends with status 1 if they grow

Samples are taken once a second in the main stage; the first tenth of them is the warm-up, and the medians of the next
and of the last tenth are compared.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

ALLOWED_GROWTH = 0.02  # of memory


def sample(process: int) -> tuple[float, int, int] | None:
    """Resident memory in MiB, open files and threads of a process; None if it has just ended."""
    with open(f"/proc/{process}/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    if "VmRSS" not in fields:
        return None
    threads = int(fields["Threads"])
    return int(fields["VmRSS"].split()[0]) / 1024, len(os.listdir(f"/proc/{process}/fd")), threads


def main() -> None:
    """The script."""
    command = [sys.executable, "-m", "brac_plus_tf.train", *sys.argv[1:]]
    samples = []
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        while process.poll() is None:
            time.sleep(1.0)
            output.seek(0)
            if "main:" in output.read() and process.poll() is None and (now := sample(process.pid)):
                samples.append(now)
        output.seek(0)
        last_line = output.read().splitlines()[-1]
    if process.returncode:
        sys.exit(f"the run ended with status {process.returncode}")
    tenth = len(samples) // 10
    if not tenth:
        sys.exit(f"the run was over after {len(samples)} s: too short to tell; raise Improvement.epochs")
    grew = False
    for index, name in enumerate(("memory, MiB", "open files", "threads")):
        before = statistics.median(values[index] for values in samples[tenth : 2 * tenth])
        after = statistics.median(values[index] for values in samples[-tenth:])
        grew |= after > before * (1.0 + ALLOWED_GROWTH * name.startswith("memory"))
        print(f"{name:12s} {before:10.1f} -> {after:10.1f}  ({after / before - 1.0:+.2%})")
    print(f"{len(samples)} s in the main stage: {'they grow' if grew else 'steady'}; {last_line}")
    sys.exit(int(grew))


if __name__ == "__main__":
    main()
