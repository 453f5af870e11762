"""Settings that depend on what is measured of the data, so that one gin file serves data of several kinds."""

from typing import Any

import gin
from absl import logging

from brac_plus_tf.data.advice import behavior_of
from brac_plus_tf.data.dataset import OfflineDataset
from brac_plus_tf.runs import configuration

_MEASURED = "by_skills.separate_skills"


@gin.register
def by_skills(one: Any, separate: Any, separate_skills: bool = gin.REQUIRED) -> Any:
    """A setting's value: `separate` for data of separate skills, such as medium + expert, else `one`.

    separate_skills: as `inspect_dataset` tells it (`Behavior.separate`); `measure` binds it, unless it is bound.
    """
    return separate if separate_skills else one


def measure(dataset: OfflineDataset) -> None:
    """Measures what the configuration asks of the data, for the agent that is built next."""
    answered = configuration.scopes_of(_MEASURED)
    # a finished run's configuration has an answer in each scope; nobody asks where `by_skills` chooses nothing
    if "" in answered or configuration.scopes_of("by_skills.one") <= answered:
        return
    behavior = behavior_of(dataset)
    separate = behavior is not None and behavior.separate
    if separate:
        logging.warning("the data are of separate skills: settings that differ by them are `by_skills.separate`")
    with gin.unlock_config():
        gin.bind_parameter(_MEASURED, separate)
