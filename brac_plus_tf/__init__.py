"""BRAC+ and its relatives: behaviour-regularised offline reinforcement learning on TensorFlow 2."""

import importlib
import os
from typing import Any

# TensorFlow's notices bury the one line a user should read; its errors still show. See core/startup.py for the rest
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

__version__ = "0.1.0"

# Public names and where they are. Each is loaded when it is first asked for: a command's --help imports this package,
# and must not wait for TensorFlow.
_PUBLIC = {
    "api": ("Run", "build", "evaluate", "train"),
    "agents.base": (
        *("Agent", "Policy", "Preparation", "Problem", "Stage", "stateless"),
        *("member_rows", "mixture", "segments", "uniform_rows"),
    ),
    "agents.actor_critic": ("MaxQ", "Training"),
    "agents.bc": ("BC",),
    "agents.bcq": ("BCQ",),
    "agents.bear": ("BEAR",),
    "agents.brac": ("BRAC", "Dual", "Primal"),
    "agents.brac_plus": ("BRACPlus", "Improvement"),
    "agents.cloning": ("Cloning",),
    "agents.cql": ("CQL",),
    "agents.iql": ("IQL",),
    "agents.rebrac": ("ReBRAC",),
    "agents.sac": ("SAC",),
    "agents.td3_bc": ("TD3BC",),
    "agents.thresholds": ("AbsoluteThreshold", "RelativeThreshold"),
    "agents.value_learning": ("Critic",),
    "core.errors": ("UserError",),
    "core.stopping": ("Interrupted",),
    "core.types": ("Dimensions", "Transition"),
    "data.dataset": ("OfflineDataset",),
    "data.loading": ("dataset_from_arrays", "load_dataset"),
    "data.scaling": ("Scaling", "by_returns", "unit_range"),
    "models.action_auto_encoder": ("ActionAutoEncoder",),
    "models.behavior": ("VAEEnsemble",),
    "models.networks": ("Actor", "CommonSpreadActor", "DeterministicActor"),
    "models.optimization": ("Fit",),
    "objectives.divergences": ("MMD", "KLUpperBound", "SampledKL"),
    "objectives.multipliers": ("GlobalMultiplier", "MaximumEntropy", "MinimumEntropy", "Multiplier", "StateMultiplier"),
    "objectives.penalties": ("GradientPenalty", "NoPenalty"),
    "policies.evaluation": ("Episodes",),
    "policies.saved_policy": ("DeployedPolicy", "LoadedPolicy"),
    "runs.trainer": ("Loop",),
}
_MODULES = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [*_MODULES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module(f"{__name__}.core.startup").start_tensorflow()
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
