"""Evaluates a finished run's policy: prints a table and writes evaluation-{action}-{seed}.json into the run.

    python -m brac_plus_tf.evaluate --run_dir=runs/hopper-medium-replay-v0/brac_plus/0
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags

from brac_plus_tf.checkpoints import write_atomically
from brac_plus_tf.command_line import run_command
from brac_plus_tf.environments import make_environment
from brac_plus_tf.evaluation import Evaluator
from brac_plus_tf.run_record import read_facts
from brac_plus_tf.saved_policy import LoadedPolicy
from brac_plus_tf.tasks import find_task
from brac_plus_tf.train import evaluation_report
from brac_plus_tf.types import UserError
