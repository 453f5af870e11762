"""One page on a dataset, a run, a selection or a comparison, in a file that needs no network.

python -m brac_plus_tf.report my_data.hdf5
python -m brac_plus_tf.report runs/my_data/brac_plus_short/0
python -m brac_plus_tf.report selection
python -m brac_plus_tf.report comparison --output=page.html
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from brac_plus_tf import command_line
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.extras import import_extra


def main(argv: Sequence[str]) -> None:
    """The command."""
    import_extra("matplotlib.figure", "plot")
    from brac_plus_tf.core.files import write_atomically
    from brac_plus_tf.reporting.report import comparison_page, dataset_page, run_page, selection_page

    if len(argv) < 2:
        raise UserError("nothing is named; usage: python -m brac_plus_tf.report DATASET|RUN|SELECTION|COMPARISON")
    path, place = Path(argv[1]).expanduser(), Path(f"{Path(argv[1]).name}.html")
    kinds = (("run.json", run_page), ("selection.json", selection_page), ("table.md", comparison_page))
    if path.is_dir():
        make = next((make for name, make in kinds if (path / name).exists()), None)
        if make is None:
            raise UserError(f"{path}: holds no run, selection or comparison")
        if len(argv) > 2:
            raise UserError(f"unexpected argument {argv[2]!r}: of directories, one at a time")
        text, place = make(path), path / "report.html"
    else:
        text = dataset_page(*command_line.load_named_data(argv[1:]))
    output = flags.FLAGS.output or place
    write_atomically(output, text.encode())
    print(f"page: {output}")


if __name__ == "__main__":
    command_line.define_data_flags()
    command_line.define_path("output", None, "The page. Default: report.html in a directory, DATASET.html beside here.")
    command_line.run_command(main)
