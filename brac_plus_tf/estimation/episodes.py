"""Real episodes of candidates, as few as a bandit needs."""

from collections.abc import Sequence

from brac_plus_tf.core.progress import Progress
from brac_plus_tf.core.randomness import initializer_seed
from brac_plus_tf.environments.environment import make_environment
from brac_plus_tf.environments.tasks import Task
from brac_plus_tf.estimation.bandit import Pulled, choose_by_episodes
from brac_plus_tf.estimation.selection import Choice, Judged
from brac_plus_tf.policies.evaluation import Evaluator
from brac_plus_tf.policies.saved_policy import LoadedPolicy


def choose_by_playing(
    judged: Sequence[Judged], task: Task, episodes: int, seed: int, backend: str = "auto"
) -> tuple[Choice, Pulled]:
    """Plays `episodes` in all, at least one of each candidate; number n of each begins alike.

    Raises:
      UserError: if a policy does not fit the task.
    """
    policies = [LoadedPolicy(one.candidate.policy) for one in judged]
    for policy in policies:
        policy.check_fits(task)
    ways = [policy.way(str(one.judgement["action"])) for policy, one in zip(policies, judged, strict=True)]
    evaluator = Evaluator(lambda: make_environment(task, backend), task.horizon)
    count = max(episodes, len(judged))
    with Progress("episodes", count, "episodes") as bar:

        def play(index: int, number: int) -> float:
            outcome = evaluator.run(ways[index], 1, initializer_seed(seed, f"episode {number} of a choice"))
            bar.advance()
            return float(outcome.returns[0])

        played = choose_by_episodes(play, [one.value.mean for one in judged], count)
    own, mean = played.counts[played.best], played.means[played.best]
    why = f"{own} of {count} real episodes went to it, of {mean:.4g} on average"
    return Choice(played.best, True, why), played
