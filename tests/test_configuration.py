import dataclasses
import pathlib

import gin
import pytest

import brac_plus_tf.runs.experiment  # noqa: F401 (registers Experiment, which every config names)
from brac_plus_tf.agents.base import Problem
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.core.gin_files import CONFIGS, description, package_files, settings
from brac_plus_tf.core.settings import HyperParameters
from brac_plus_tf.core.types import Dimensions
from brac_plus_tf.models.networks import Actor
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.runs import configuration


@gin.register(module="some.package.module")
@dataclasses.dataclass(frozen=True)
class Sample(HyperParameters):
    """Something to configure."""

    gamma: float = 0.99
    tau: float = 0.005
    members: int = 2
    hidden_sizes: tuple[int, ...] = (256, 256)


@pytest.fixture(autouse=True)
def clean():
    yield
    gin.clear_config()


def write(folder: pathlib.Path, name: str, text: str) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


def build(name: str) -> object:
    """What gin makes of `@name()`."""
    return gin.get_configurable(name)()


# Reading ------------------------------------------------------------------------------------------------------------


def test_later_files_win_and_bindings_win_over_files(tmp_path):
    first = write(tmp_path, "first.gin", "Sample.gamma = 0.1\nSample.tau = 0.1\nSample.members = 4\n")
    second = write(tmp_path, "second.gin", "Sample.gamma = 0.2\nSample.tau = 0.2\n")
    configuration.parse([first, second], ["Sample.gamma = 0.3"])
    sample = build("Sample")
    assert (sample.gamma, sample.tau, sample.members) == (0.3, 0.2, 4)
    configuration.parse([second, first], ["Sample.gamma = 0.3", "Sample.gamma = 0.4"])
    sample = build("Sample")
    assert (sample.gamma, sample.tau) == (0.4, 0.1)


def test_nothing_is_left_of_what_was_read_before(tmp_path):
    configuration.parse([write(tmp_path, "a.gin", "Sample.gamma = 0.1\n")], ["Actor.hidden_sizes = (3,)"])
    build("Sample")
    configuration.parse([], [])
    assert build("Sample") == Sample() and build("Actor") == Actor()
    assert "Sample.gamma = 0.99" in gin.operative_config_str()


def test_a_binding_may_hold_several_lines():
    configuration.parse([], ["Sample.gamma = 0.3\nSample.tau = 0.2"])
    assert (build("Sample").gamma, build("Sample").tau) == (0.3, 0.2)


def test_an_include_is_looked_for_in_the_package_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mine.gin", "include 'brac_plus/base.gin'\nSample.gamma = 0.5\n")
    configuration.parse(["mine.gin"], [])
    assert build("Sample").gamma == 0.5
    assert gin.query_parameter("Improvement.steps_per_epoch") == 2000


def test_a_file_of_the_package_includes_the_package_s_own_whatever_lies_elsewhere(tmp_path, monkeypatch):
    """Neither the working directory's files nor those beside the user's own count for brac_plus/base.gin's include."""
    write(tmp_path, "shared.gin", "Sample.gamma = 0.5\n")
    write(tmp_path, "mine.gin", "include 'brac_plus/base.gin'\n")
    monkeypatch.chdir(tmp_path)
    configuration.parse(["mine.gin"], [])
    assert build("Sample").gamma == 0.99

    monkeypatch.chdir(CONFIGS / "brac_plus")
    configuration.parse(["hopper_medium.gin"], [])
    assert gin.query_parameter("AbsoluteThreshold.value") == 2.4


def test_a_package_file_is_found_by_its_name_from_anywhere_and_by_its_path(tmp_path, monkeypatch):
    for folder, name in ((tmp_path, "brac_plus/hopper_medium.gin"), (CONFIGS.parent, "gin_configs/bc/base.gin")):
        monkeypatch.chdir(folder)
        configuration.parse([name], [])
        assert gin.query_parameter("Experiment.agent_name") == ("brac_plus" if "brac" in name else "bc")


def test_a_neighbour_of_the_including_file_comes_before_the_package_s(tmp_path, monkeypatch):
    """Started elsewhere, where other files of the same names lie."""
    folder = tmp_path / "mine"
    write(folder, "first.gin", "include 'parts/second.gin'\ninclude 'sac/base.gin'\n")
    write(folder, "parts/second.gin", "include '../third.gin'\nSample.tau = 0.5\n")
    write(folder, "third.gin", "Sample.gamma = 0.25\n")
    write(folder, "sac/base.gin", "Sample.members = 5\n")
    for name in ("parts/second.gin", "third.gin", "sac/base.gin"):
        write(tmp_path / "elsewhere", name, "Sample.gamma = 0.1\nSample.tau = 0.1\nSample.members = 9\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    configuration.parse(["../mine/first.gin"], [])
    sample = build("Sample")
    assert (sample.gamma, sample.tau, sample.members) == (0.25, 0.5, 5)


def test_what_stands_before_and_after_an_include_is_read_in_its_place(tmp_path):
    write(tmp_path, "included.gin", "Sample.gamma = 0.2\nSample.tau = 0.2\n")
    mine = "Sample.gamma = 0.1\nSample.members = 3\ninclude 'included.gin'\nSample.tau = 0.3\n"
    configuration.parse([write(tmp_path, "mine.gin", mine)], [])
    sample = build("Sample")
    assert (sample.gamma, sample.members, sample.tau) == (0.2, 3, 0.3)


def test_two_files_that_include_each_other_are_refused(tmp_path):
    write(tmp_path, "one.gin", "include 'two.gin'\n")
    with pytest.raises(UserError, match=r"circle: two\.gin includes one\.gin includes two\.gin"):
        configuration.parse([write(tmp_path, "two.gin", "include 'one.gin'\n")], [])


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("brac_plus/hoper_medium.gin", "brac_plus/hopper_medium.gin"),
        ("gin_configs/cql/tho.gin", "cql/rho.gin"),
        ("stedy.gin", "brac_plus/steady.gin"),
    ],
)
def test_a_missing_file_is_refused_with_names_that_come_close(tmp_path, monkeypatch, name, close):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"^gin file {name}: .* did you mean {close}"):
        configuration.parse([name], [])
    with pytest.raises(UserError, match=rf"mine\.gin, line 2: gin file {name}: .* did you mean {close}"):
        configuration.parse([write(tmp_path, "mine.gin", f"\ninclude '{name}'\n")], [])


def test_the_line_of_an_error_is_the_file_s_own_behind_an_include(tmp_path):
    text = "include 'bc/base.gin'\n\nSample.gama = 0.5\n"
    with pytest.raises(UserError, match=r'In file ".*/mine\.gin", line 3 Sample\.gama = 0\.5$'):
        configuration.parse([write(tmp_path, "mine.gin", text)], [])


def test_a_file_may_import_a_module_of_the_users(tmp_path, monkeypatch):
    """Also one that registers nothing by itself, under gin's dynamic registration."""
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path, "imported_by_gin.py", "import gin\n\n@gin.configurable\ndef own_thing(x=1):\n    return x\n")
    write(tmp_path, "found_by_gin.py", "def other_thing(x=1):\n    return x\n")
    bindings = "import imported_by_gin\ninclude 'bc/base.gin'\nown_thing.x = 2\n"
    configuration.parse([write(tmp_path, "mine.gin", bindings)], [])
    assert build("own_thing") == 2
    bindings = "from __gin__ import dynamic_registration\nimport found_by_gin\ninclude 'mine.gin'\n"
    configuration.parse([write(tmp_path, "dynamic.gin", bindings + "found_by_gin.other_thing.x = 3\n")], [])
    assert build("found_by_gin.other_thing") == 3


def test_an_error_does_not_end_in_gins_list_of_calls():
    with pytest.raises(UserError) as error:
        configuration.build(gin.get_configurable("Sample"), [], ["Sample.gamma = 'much'"])
    assert str(error.value) == "Sample.gamma is 'much', it must be a number"


def test_a_file_named_on_the_command_line_is_the_one_in_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path, "base.gin", "Sample.gamma = 0.5\n")
    monkeypatch.chdir(tmp_path)
    configuration.parse(["base.gin"], [])
    assert build("Sample").gamma == 0.5


def test_a_file_of_the_users_may_include_another(tmp_path, monkeypatch):
    write(tmp_path, "shared.gin", "Sample.gamma = 0.5\n")
    write(tmp_path, "mine.gin", "include 'shared.gin'\nSample.tau = 0.5\n")
    monkeypatch.chdir(tmp_path)
    configuration.parse(["mine.gin"], [])
    assert (build("Sample").gamma, build("Sample").tau) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Sample.gamma = ", "gin"),
        ("Sample.gamma 0.5", "gin"),
        ("Sample.gama = 0.5", "gama"),
        ("Sampel.gamma = 0.5", "Sampel"),
        ("BRACPlus.critic = @Sampel()", "Sampel"),
        ("include 'absent/file.gin'", "absent/file.gin"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("include 'mine.gin'", r"mine\.gin: includes go in a circle: mine\.gin includes mine\.gin"),
    ],
    ids=["no value", "no =", "parameter", "name", "reference", "include", "import", "circle"],
)
def test_a_wrong_file_is_an_error_that_names_what_is_wrong(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        configuration.parse([write(tmp_path, "mine.gin", text + "\n")], [])


@pytest.mark.parametrize("binding", ["Sample.gama = 0.5", "Sampel.gamma = 0.5", "gamma = ", "Sample.gamma: 0.5"])
def test_a_wrong_binding_is_an_error(binding):
    with pytest.raises(UserError, match=r"^gin: "):
        configuration.parse([], [binding])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.gin"):
        configuration.parse([str(tmp_path / "absent.gin")], [])


def test_what_must_be_given_is_named_without_gins_list_of_calls():
    bindings = ["Experiment.dataset = 'd.hdf5'"]
    experiment = configuration.build(gin.get_configurable("Experiment"), ["brac_plus/base.gin"], bindings)
    with pytest.raises(UserError) as error:
        experiment.build_agent(Problem(Dimensions(3, 2)), 0)
    missing = "AbsoluteThreshold.__init__() missing 1 required positional argument: 'value'"
    assert str(error.value) == f"brac_plus: these settings do not fit it ({missing})"


# Files without gin ----------------------------------------------------------------------------------------------------


def test_what_a_file_sets_is_known_without_building_it(tmp_path):
    """Written out by hand; where two files set the same, the later statement counts."""
    write(tmp_path, "included.gin", "import nothing_of_that_name\nFit.steps = 1\nscope/Fit.steps = 2\nWIDTH = 3\n")
    path = write(tmp_path, "mine.gin", "Fit.steps = 0\ninclude 'included.gin'\nA.b = (%WIDTH, @c/D(), @E, 'f')\n")
    expected = {"Fit.steps": "1", "scope/Fit.steps": "2", "WIDTH": "3", "A.b": "(%WIDTH, @c/D(), @E, 'f')"}
    assert settings(pathlib.Path(path)) == expected
    with pytest.raises(UserError, match=r"included\.gin"):
        write(tmp_path, "included.gin", "Fit.steps = \n")
        settings(pathlib.Path(path))


def test_what_the_files_of_the_package_set_is_what_gin_reads():
    configuration.parse(["brac_plus/short.gin"], [])
    found = settings(CONFIGS / "brac_plus" / "short.gin")
    for key, value in found.items():
        if not value.startswith("@"):
            assert repr(gin.query_parameter(key)) == value, key
    assert found["Improvement.epochs"] == "20" and len(found) > 30


def test_every_file_of_the_package_describes_itself():
    assert len(package_files()) > 60
    for name in package_files():
        assert 15 < len(description(CONFIGS / name)) < 250, name
    assert description(CONFIGS / "cql" / "rho.gin") == "CQL(rho) in the paper's form, rho the current policy"


# Bindings without effect ----------------------------------------------------------------------------------------------

SCOPED = "Fit.steps = 7\nbehavior/Fit.steps = 8\n"


def operative(bindings: list[str]) -> str:
    """The operative configuration after a critic and two fits in scopes of their own were built."""
    configuration.parse([], [SCOPED, *bindings])
    build("Sample")
    for scope in ("behavior", "policy"):
        with gin.config_scope(scope):
            assert isinstance(build("Fit"), Fit)
    return gin.operative_config_str()


@pytest.mark.parametrize(
    "binding",
    [
        "Sample.gamma = 0.5",
        "  Sample.gamma=0.5  ",
        "some.package.module.Sample.gamma = 0.5",
        "module.Sample.gamma = 0.5",
        "Sample.gamma = 0.5  # discount",
        "behavior/Fit.batch_size = 5",
        "behavior/optimization.Fit.batch_size = 5",
        "Fit.batch_size = 5",  # reaches both scopes
        "Fit.steps = 9",  # reaches the scope that has no value of its own
        "Sample.hidden_sizes = (\n    8,\n    8,\n)",
        "# a comment",
        "",
        "WIDTH = 8\nSample.hidden_sizes = (%WIDTH,)",
    ],
)
def test_a_binding_that_reached_something_passes(binding):
    configuration.check_effective([binding], operative([binding]))


@pytest.mark.parametrize(
    "binding",
    [
        "Actor.hidden_sizes = (8,)",
        "Sample.gamma = 0.5\nActor.hidden_sizes = (8,)",
        "elsewhere/Sample.gamma = 0.5",
        "critic/Fit.steps = 9",
        "brac_plus_tf.models.networks.Actor.hidden_sizes = (8,)",
    ],
)
def test_a_binding_that_reached_nothing_is_refused(binding):
    with pytest.raises(UserError, match="has no effect") as error:
        configuration.check_effective([binding], operative([binding]))
    assert repr(binding.splitlines()[-1]) in str(error.value)


def test_a_binding_that_every_scope_overrides_is_refused():
    configuration.parse([], ["behavior/Fit.steps = 8", "Fit.steps = 9"])
    with gin.config_scope("behavior"):
        assert build("Fit").steps == 8
    with pytest.raises(UserError, match=r"Fit\.steps = 9"):
        configuration.check_effective(["Fit.steps = 9"], gin.operative_config_str())
