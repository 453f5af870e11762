import pathlib

import gin
import pytest

import brac_plus_tf.runs.experiment  # noqa: F401 (registers Experiment, which every config names)
from brac_plus_tf.core.errors import UserError
from brac_plus_tf.models.networks import Actor, Critic
from brac_plus_tf.models.optimization import Fit
from brac_plus_tf.runs import configuration


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
    first = write(tmp_path, "first.gin", "Critic.gamma = 0.1\nCritic.tau = 0.1\nCritic.members = 4\n")
    second = write(tmp_path, "second.gin", "Critic.gamma = 0.2\nCritic.tau = 0.2\n")
    configuration.parse([first, second], ["Critic.gamma = 0.3"])
    critic = build("Critic")
    assert (critic.gamma, critic.tau, critic.members) == (0.3, 0.2, 4)
    configuration.parse([second, first], ["Critic.gamma = 0.3", "Critic.gamma = 0.4"])
    critic = build("Critic")
    assert (critic.gamma, critic.tau) == (0.4, 0.1)


def test_nothing_is_left_of_what_was_read_before(tmp_path):
    configuration.parse([write(tmp_path, "a.gin", "Critic.gamma = 0.1\n")], ["Actor.hidden_sizes = (3,)"])
    build("Critic")
    configuration.parse([], [])
    assert build("Critic") == Critic() and build("Actor") == Actor()
    assert "Critic.gamma = 0.99" in gin.operative_config_str()


def test_a_binding_may_hold_several_lines():
    configuration.parse([], ["Critic.gamma = 0.3\nCritic.tau = 0.2"])
    assert (build("Critic").gamma, build("Critic").tau) == (0.3, 0.2)


def test_an_include_is_looked_for_in_the_package_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "mine.gin", "include 'brac_plus/base.gin'\nCritic.gamma = 0.5\n")
    configuration.parse(["mine.gin"], [])
    assert build("Critic").gamma == 0.5
    assert gin.query_parameter("Improvement.steps_per_epoch") == 2000


def test_an_include_does_not_mean_a_file_that_happens_to_lie_in_the_working_directory(tmp_path, monkeypatch):
    """brac_plus/base.gin includes base.gin; started beside the former, gin itself would include it for ever."""
    write(tmp_path, "base.gin", "Critic.gamma = 0.5\n")
    write(tmp_path, "brac_plus/base.gin", "Critic.gamma = 0.5\n")
    write(tmp_path, "mine.gin", "include 'brac_plus/base.gin'\n")
    monkeypatch.chdir(tmp_path)
    configuration.parse(["mine.gin"], [])
    assert build("Critic").gamma == 0.99

    monkeypatch.chdir(configuration.GIN_CONFIGS / "brac_plus")
    configuration.parse(["hopper_medium.gin"], [])
    assert gin.query_parameter("AbsoluteThreshold.value") == 2.4


def test_a_file_named_on_the_command_line_is_the_one_in_the_working_directory(tmp_path, monkeypatch):
    write(tmp_path, "base.gin", "Critic.gamma = 0.5\n")
    monkeypatch.chdir(tmp_path)
    configuration.parse(["base.gin"], [])
    assert build("Critic").gamma == 0.5


def test_a_file_of_the_users_may_include_another(tmp_path, monkeypatch):
    write(tmp_path, "shared.gin", "Critic.gamma = 0.5\n")
    write(tmp_path, "mine.gin", "include 'shared.gin'\nCritic.tau = 0.5\n")
    monkeypatch.chdir(tmp_path)
    configuration.parse(["mine.gin"], [])
    assert (build("Critic").gamma, build("Critic").tau) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Critic.gamma = ", "gin"),
        ("Critic.gamma 0.5", "gin"),
        ("Critic.gama = 0.5", "gama"),
        ("Critik.gamma = 0.5", "Critik"),
        ("BRACPlus.critic = @Critik()", "Critik"),
        ("include 'absent/file.gin'", "absent/file.gin"),
        ("import no_such_module_at_all", "no_such_module_at_all"),
        ("include 'mine.gin'", "recursion"),
    ],
    ids=["no value", "no =", "parameter", "name", "reference", "include", "import", "circle"],
)
def test_a_wrong_file_is_an_error_that_names_what_is_wrong(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        configuration.parse([write(tmp_path, "mine.gin", text + "\n")], [])


@pytest.mark.parametrize("binding", ["Critic.gama = 0.5", "Critik.gamma = 0.5", "gamma = ", "Critic.gamma: 0.5"])
def test_a_wrong_binding_is_an_error(binding):
    with pytest.raises(UserError, match=r"^gin: "):
        configuration.parse([], [binding])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.gin"):
        configuration.parse([str(tmp_path / "absent.gin")], [])


# Bindings without effect ----------------------------------------------------------------------------------------------

SCOPED = "Fit.steps = 7\nbehavior/Fit.steps = 8\n"


def operative(bindings: list[str]) -> str:
    """The operative configuration after a critic and two fits in scopes of their own were built."""
    configuration.parse([], [SCOPED, *bindings])
    build("Critic")
    for scope in ("behavior", "policy"):
        with gin.config_scope(scope):
            assert isinstance(build("Fit"), Fit)
    return gin.operative_config_str()


@pytest.mark.parametrize(
    "binding",
    [
        "Critic.gamma = 0.5",
        "  Critic.gamma=0.5  ",
        "brac_plus_tf.models.networks.Critic.gamma = 0.5",
        "networks.Critic.gamma = 0.5",
        "Critic.gamma = 0.5  # discount",
        "behavior/Fit.batch_size = 5",
        "behavior/updates.Fit.batch_size = 5",
        "Fit.batch_size = 5",  # reaches both scopes
        "Fit.steps = 9",  # reaches the scope that has no value of its own
        "Critic.hidden_sizes = (\n    8,\n    8,\n)",
        "# a comment",
        "",
        "WIDTH = 8\nCritic.hidden_sizes = (%WIDTH,)",
    ],
)
def test_a_binding_that_reached_something_passes(binding):
    configuration.check_effective([binding], operative([binding]))


@pytest.mark.parametrize(
    "binding",
    [
        "Actor.hidden_sizes = (8,)",
        "Critic.gamma = 0.5\nActor.hidden_sizes = (8,)",
        "elsewhere/Critic.gamma = 0.5",
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
