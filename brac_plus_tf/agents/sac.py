"""SAC (Haarnoja et al. 2018) with clipped double Q: it has no regard for the data's policy and fails offline.

Also what learns online from a growing buffer: the update is the same.
"""

from collections.abc import Sequence

import gin

from brac_plus_tf.agents.actor_critic import MaxQ, Training, training_stages
from brac_plus_tf.agents.base import Problem, Stage
from brac_plus_tf.agents.soft_actor_critic import SoftActorCritic
from brac_plus_tf.agents.value_learning import Critic
from brac_plus_tf.core.settings import checked
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.objectives.multipliers import Multiplier


@gin.register
class SAC(SoftActorCritic):
    """Soft actor-critic. entropy: its temperature; minimum_entropy: nats, None stands for -A."""

    @checked
    def __init__(
        self,
        problem: Problem,
        seed: int,
        *,
        actor: Actor = Actor((200, 200), (-5.0, 0.0)),
        critic: Critic = Critic((300, 300), learning_rate=5e-4, tau=5e-3),
        training: Training = Training(policy_learning_rate=5e-4),
        entropy: Multiplier = Multiplier(initial=1.0, learning_rate=5e-4, minimum=1e-6, logarithmic=True),
        minimum_entropy: float | None = None,
        max_q: MaxQ = MaxQ(),
    ) -> None:
        super().__init__(problem, seed, actor, critic, training, entropy, minimum_entropy, max_q)

    def stages(self) -> Sequence[Stage]:
        """One stage."""
        return training_stages(self._training, self.watch(), self.update)
