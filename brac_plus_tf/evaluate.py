"""Evaluates a finished run's exported policy: prints a table and writes JSON into the run directory.

python -m brac_plus_tf.evaluate --run_dir=runs/hopper-medium-replay-v0/brac_plus/0 --video=first_episode.mp4
"""

from collections.abc import Mapping, Sequence

from absl import flags

from brac_plus_tf import command_line


def main(argv: Sequence[str]) -> None:
    """The command."""
    from brac_plus_tf.core.files import write_json
    from brac_plus_tf.environments.filming import Video
    from brac_plus_tf.runs.finished import evaluate

    command_line.refuse_arguments(argv)
    values = flags.FLAGS
    task = command_line.named_task()
    video = Video(values.video, command_line.flag_value("import")) if values.video else None
    evaluation = evaluate(values.run_dir, task, values.episodes, values.action, values.seed, values.backend)
    content = evaluation.content
    print(format_report(content))
    path = values.run_dir / f"evaluation-{content['action']}-{content['seed']}.json"
    write_json(path, content)
    if video:
        video.film(evaluation.task, str(content["backend"]), evaluation.first)
        print(f"video: {video.path}")
    print(f"results: {path}")


def format_report(content: Mapping[str, object]) -> str:
    """An evaluation's figures, as people read them."""
    lines = [f"{content['task']} on {content['backend']}, action {content['action']}, {content['episodes']} episodes"]
    rows = [("return", "return_mean", "return_std"), ("score", "score_mean", "score_std")]
    for label, mean, deviation in rows:
        if mean in content:
            lines.append(f"  {label:8s} {content[mean]:10.2f} +- {content[deviation]:.2f}")
    return "\n".join([*lines, f"  {'length':8s} {content['length_mean']:10.1f}"])


if __name__ == "__main__":
    command_line.define_path("run_dir", None, "Directory of a finished run.", required=True)
    flags.DEFINE_integer("episodes", 100, "Episodes.", lower_bound=1)
    actions = "mean: tanh of the mean; sample: a draw; max_q: the critics' best of several"
    flags.DEFINE_string("action", None, f"{actions}. Without it what the run itself was evaluated by.")
    seeds = "Seed of the episodes' starts and, for 'sample', of the draws. Without it the run's own."
    flags.DEFINE_integer("seed", None, seeds, lower_bound=0)
    command_line.define_path("video", None, "MP4 file for the first of the episodes; needs the extra 'video'.")
    command_line.define_simulator_flags("Environment, instead of the run's own.")
    command_line.define_task_flags()
    command_line.run_command(main)
