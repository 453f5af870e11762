"""Pages: what stands on them, that nothing in a name can act, and how a browser shows them."""

import json
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
import tiny
from matplotlib.figure import Figure
from matplotlib.image import imread
from test_comparison import SCORES, write_judged, write_run
from test_select import judged

from brac_plus_tf.data.loading import load_dataset
from brac_plus_tf.estimation.selection import Choice, content_of
from brac_plus_tf.reporting.page import drawing, page, paragraph, table
from brac_plus_tf.reporting.report import comparison_page, dataset_page, run_page, selection_page

HOSTILE = "<script>document.title='taken'</script>$\\frac{1}{$&\"'<img src=x onerror=alert(1)>"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium: apt-get install chromium")


def show(text: str, folder: pathlib.Path, *flags: str) -> subprocess.CompletedProcess:
    """The page in a browser without a screen."""
    path = folder / "page.html"
    path.write_text(text)
    own = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}")
    command = [BROWSER, *own, "--enable-logging=stderr", *flags, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


# What stands on them --------------------------------------------------------------------------------------------------


def a_run(folder, **changes):
    run = write_run(folder / "run", 42.0)
    facts = {"format": 1, "agent": "bc", "seed": 3, "action": "mean", "environment": None}
    facts["dataset"] = {"files": ["my_data.hdf5"], "sha256": "abc"}
    (run / "run.json").write_text(json.dumps(facts | changes))
    evaluation = {"episodes": 100, "task": "Hopper-v4", "score_mean": 42.0, "score_std": 1.5, "last_evaluations": {}}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    (run / "operative_config.gin").write_text("BC.lines = 3 < 4\n")
    return run


def a_judged_run(folder, **changes):
    more = {"reliable": True, "why": [], "action": "mean", "distance": 0.2, "drift": 0.0}
    run = write_judged(folder / "judged", 9.0, **(more | changes))
    facts = json.loads((run / "run.json").read_text()) | {"agent": "cql", "seed": 1, "action": "mean"}
    facts["dataset"] = {"files": ["my_data.hdf5"], "sha256": "abc"}
    (run / "run.json").write_text(json.dumps(facts))
    return run


def a_selection(folder, name="a", chosen=0):
    many = [judged(name, 7.0, 1.0, 4.0), judged("b", 6.0, 1.5, 1.0, reliable=False)]
    for one in many:
        one.judgement.update(gamma=0.99, episodes=40, why=["it drifts"], data={"mean": 5.0, "half_width": 0.5})
    folder.mkdir(exist_ok=True)
    (folder / "selection.json").write_text(json.dumps(content_of(many, Choice(chosen, True, "the best of two"))))
    return folder


def a_comparison(folder, dataset="hopper-medium-replay"):
    from brac_plus_tf.comparison.records import Cell
    from brac_plus_tf.comparison.report import write_comparison
    from brac_plus_tf.comparison.results import collect

    cells = [
        Cell(agent, dataset, seed, write_run(folder / agent / str(seed), score))
        for (agent, name), scores in SCORES.items()
        if name == "hopper-medium-replay"
        for seed, score in enumerate(scores)
    ]
    write_comparison(collect(cells), folder / "out")
    return folder / "out"


def a_dataset(folder):
    return load_dataset([tiny.write_hopper_dataset(folder / "my & data.hdf5")], None)


def test_a_run(tmp_path):
    text = run_page(a_run(tmp_path))
    assert "<h1>bc on my_data, seed 3</h1>" in text and "score 42.0 +- 1.5 in 100 episodes of Hopper-v4" in text
    assert "<svg" in text and "BC.lines = 3 &lt; 4" in text and "(SHA-256 abc)" in text


@pytest.mark.parametrize(("reliable", "kind"), [(True, "verdict"), (False, "verdict doubtful")])
def test_a_run_that_its_data_judge(tmp_path, reliable, kind):
    why = [] if reliable else ["a cloned policy is estimated at 9"]
    text = run_page(a_judged_run(tmp_path, reliable=reliable, why=why))
    assert f'<p class="{kind}">By the data alone: better than the data.</p>' in text
    assert "<td>this policy</td><td>9 +- 1.2</td>" in text and "<td>the data</td><td>5 +- 0.5</td>" in text
    assert ("a cloned policy is estimated at 9" in text) == (not reliable) and "no simulator" in text


def test_an_unfinished_run(tmp_path):
    run = a_run(tmp_path)
    (run / "evaluation.json").unlink()
    assert "Not finished yet" in run_page(run)


def test_a_selection(tmp_path):
    text = selection_page(a_selection(tmp_path))
    assert "Chosen: a: the best of two." in text and "it drifts" in text
    assert re.search(r"<tr class=chosen><td>a</td><td>7 \+- 1</td><td>3\.6</td><td>4</td><td>25%</td>", text)


@pytest.fixture
def drawn(monkeypatch):
    """The axes of what pages draw, in order."""
    every = []

    def panels(draw, description):
        for one in draw:
            every.append(Figure().subplots())
            one(every[-1])
        return ""

    monkeypatch.setattr("brac_plus_tf.reporting.report.panels", panels)
    return every


def test_a_selection_draws_each_interval_and_the_datas(tmp_path, drawn):
    text = selection_page(a_selection(tmp_path, chosen=1))
    assert "Chosen: b: the best of two." in text and "<tr class=chosen><td>b</td>" in text
    (axes,) = drawn
    assert axes.patches[0].get_bbox().intervalx.tolist() == [4.5, 5.5]  # the data: 5 +- 0.5
    points = {}
    for container in axes.containers:
        line, _, (bar,) = container.lines
        ends = bar.get_segments()[0]
        points[line.get_ydata()[0]] = (line.get_xdata()[0], *ends[:, 0], line.get_color())
    assert points == {0: (7.0, 6.0, 8.0, "#0072B2"), -1: (6.0, 4.5, 7.5, "#D55E00")}
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert dict(zip(axes.get_yticks().tolist(), names, strict=True)) == {0: "a", -1: "b"}


def test_a_comparison_draws_each_dataset_by_itself(tmp_path, drawn):
    rows = ["dataset,agent,seed,unit,mean", "x,bc,0,score,1.5", "x,cql,0,score,2.5", "y,bc,0,return,3.5"]
    (tmp_path / "scores.csv").write_text("\n".join(rows))
    (tmp_path / "table.md").write_text("Words.\n\n| agent | x |\n|---|---|\n| bc | 1.5 |\n")
    text = comparison_page(tmp_path)
    assert "<tr><th>agent</th><th>x</th></tr><tr><td>bc</td><td>1.5</td></tr></table>" in text
    points = [[(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] for axes in drawn]
    assert points == [[(0, 1.5), (1, 2.5)], [(0, 3.5)]]
    assert [(axes.get_title(), axes.get_ylabel()) for axes in drawn] == [("x", "score"), ("y", "return")]


def test_a_comparison(tmp_path):
    text = comparison_page(a_comparison(tmp_path))
    assert "<th>bc</th><th>brac_plus</th>" in text and "<td>80.0 [70.0, 90.0] (paper 72.7)</td>" in text


def test_a_dataset(tmp_path):
    text = dataset_page(a_dataset(tmp_path), None)
    assert "<h1>my &amp; data.hdf5</h1>" in text and "Suggestion: brac_plus/short.gin" in text
    assert "<td>coverage</td>" in text and "<svg" in text


PAGES = {
    "run": lambda folder: run_page(a_run(folder)),
    "judged": lambda folder: run_page(a_judged_run(folder)),
    "selection": lambda folder: selection_page(a_selection(folder)),
    "comparison": lambda folder: comparison_page(a_comparison(folder)),
    "dataset": lambda folder: dataset_page(a_dataset(folder), None),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_small_and_asks_for_nothing(tmp_path, kind):
    text = PAGES[kind](tmp_path)
    assert len(text.encode()) < 2_000_000
    fetched = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"' >]+)", text) + re.findall(r"url\(([^)]*)\)", text)
    assert all(target.startswith("#") for target in fetched), fetched
    assert "default-src 'none'" in text and "width=device-width" in text and "<script" not in text


# Names that would act -------------------------------------------------------------------------------------------------


def hostile_pages(folder):
    (folder / "data").mkdir()
    facts = {"agent": HOSTILE, "dataset": {"files": [HOSTILE], "sha256": HOSTILE}}
    return {
        "run": run_page(a_run(folder, **facts)),
        "selection": selection_page(a_selection(folder / "selection", HOSTILE)),
        "comparison": comparison_page(a_comparison(folder / "comparison", HOSTILE.replace("/", ""))),
        "table": page(HOSTILE, [paragraph(HOSTILE), table([[HOSTILE]], [HOSTILE])]),
    }


def test_no_name_becomes_markup(tmp_path):
    for kind, text in hostile_pages(tmp_path).items():
        assert "<script" not in text and "<img" not in text, kind
        assert "&lt;script&gt;" in text or "&lt;" in text, kind


def test_a_drawing_is_described_and_says_nothing_of_its_time(tmp_path):
    figure = Figure()
    figure.subplots().set_title("<b>&", parse_math=False)
    text = drawing(figure, 'what "it" is')
    assert text.startswith('<svg role="img" aria-label="what &quot;it&quot; is"') and "<b>" not in text
    assert "DOCTYPE" not in text and "dc:date" not in text


# In a browser ---------------------------------------------------------------------------------------------------------


@needs_browser
def test_a_browser_runs_nothing_of_them(tmp_path):
    for kind, text in hostile_pages(tmp_path).items():
        shown = show(text, tmp_path, "--dump-dom")
        assert "<title>taken" not in shown.stdout and "<title>" in shown.stdout, kind
        assert "CONSOLE" not in shown.stderr, kind


@needs_browser
def test_a_script_would_have_been_seen(tmp_path):
    """The check itself: a page without the policy that forbids it, and one with it."""
    bare = "<html><head><title>t</title></head><body><script>document.title='taken';nothing()</script></body></html>"
    shown = show(bare, tmp_path, "--dump-dom")
    assert "<title>taken" in shown.stdout and "CONSOLE" in shown.stderr
    guarded = page("t", []).replace("</body>", "<script>document.title='taken'</script></body>")
    shown = show(guarded, tmp_path, "--dump-dom")
    assert "<title>taken" not in shown.stdout and "CONSOLE" in shown.stderr


@needs_browser
@pytest.mark.parametrize("kind", PAGES)
def test_a_phone_shows_it(tmp_path, kind):
    """400 points wide: something is drawn from top to below, and nothing lies to the right of the screen."""
    width, height = 400, 3000  # what the page says before its first drawing may fill more than one screen
    picture = tmp_path / "page.png"
    show(PAGES[kind](tmp_path), tmp_path, f"--window-size={width},{height}", f"--screenshot={picture}")
    pixels = imread(picture)[..., :3]
    inked = np.flatnonzero((pixels < 0.9).any(axis=(1, 2)))
    assert pixels.shape[1] == width and inked[0] < 60 and inked[-1] > 400 and len(inked) > 200
    assert (pixels[:, -6:] > 0.9).all()  # the margin is free
    assert (np.ptp(pixels, axis=2) > 0.2).sum() > 50  # coloured: a verdict, curves or points beside the grey of text


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_finds_out_what_it_is_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tiny.write_hopper_dataset(tmp_path / "mine.hdf5")
    for path, place in (
        (a_run(tmp_path), tmp_path / "run" / "report.html"),
        (a_selection(tmp_path / "chosen"), tmp_path / "chosen" / "report.html"),
        (a_comparison(tmp_path / "compared"), tmp_path / "compared" / "out" / "report.html"),
        (data, tmp_path / "mine.hdf5.html"),
    ):
        done = tiny.run_here("report", str(path))
        assert done.status == 0, done.stderr
        assert done.stdout.splitlines()[-1].startswith("page: ") and place.read_text().startswith("<!DOCTYPE html>")
    assert tiny.run_here("report", data, "--output=other.html").status == 0 and (tmp_path / "other.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((), "nothing is named"), (("empty",), "holds no run"), (("absent.hdf5",), "absent.hdf5")],
)
def test_what_it_cannot_make_a_page_of(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    done = tiny.run_here("report", *arguments)
    assert done.status == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("*.html"))
