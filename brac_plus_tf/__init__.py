"""BRAC+ and its relatives: behaviour-regularised offline reinforcement learning on TensorFlow 2."""

import os

# TensorFlow's notices bury the one line a user should read; its errors still show. See core/startup.py for the rest
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"
