"""Flags go before the environment, that before the file, that before the defaults."""

import os
from pathlib import Path
from typing import Any

import pytest

from mlx_mcp import settings as settings_module
from mlx_mcp.errors import SettingsError
from mlx_mcp.settings import ModelSettings, Settings, default_id, load_settings


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, no configuration of the user's and none of our variables."""
    for name in [name for name in os.environ if name.upper().startswith("MLX_MCP_")]:
        monkeypatch.delenv(name)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(settings_module.platformdirs, "user_config_dir", lambda name: str(tmp_path / "config" / name))
    return here


def write(text: str, file: Path = Path("mlx-mcp.toml")) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def refusal(**flags: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(**flags)
    return str(refused.value)


def test_flags_go_before_the_environment_before_the_file_before_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    default = Settings.model_fields["port"].default
    assert load_settings().port == default
    write("port = 1111\nqueue_size = 11\nhost = '0.0.0.0'")
    assert load_settings().port == 1111
    monkeypatch.setenv("MLX_MCP_PORT", "2222")
    monkeypatch.setenv("MLX_MCP_QUEUE_SIZE", "22")
    assert load_settings().port == 2222
    loaded = load_settings(port=3333)
    assert (loaded.port, loaded.queue_size, loaded.host) == (3333, 22, "0.0.0.0")


def test_a_flag_that_is_none_was_not_given() -> None:
    write("port = 1111")
    assert load_settings(port=None).port == 1111


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ("MLX_MCP_PROT", "MLX_MCP_PROT is no setting. Did you mean MLX_MCP_PORT?"),
        ("MLX_MCP_CONFIGURATION", "MLX_MCP_CONFIGURATION is no setting."),
        ("MLX_MCP_ZZZ", "MLX_MCP_ZZZ is no setting. Known are: MLX_MCP_CACHE_DIR,"),
    ],
)
def test_an_unknown_variable_names_the_nearest(monkeypatch: pytest.MonkeyPatch, environment: str, words: str) -> None:
    monkeypatch.setenv(environment, "1")
    assert refusal().startswith(words)


def test_variables_of_the_tests_are_none_of_our_business(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MCP_TEST_MODEL", "/models/large")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("prot = 1", "prot is no setting. Did you mean port?"),
        ("[[models]]\nsorce = 'a'\nsource = 'b'", "models.0.sorce is no setting. Did you mean source?"),
        ("models = ['a', {source = 'b', contextlength = 5}]", "models.1.contextlength is no setting. Did you mean con"),
        (
            "[[models]]\nsource = 'a'\n[models.sampling]\ntemprature = 1",
            "models.0.sampling.temprature is no setting. Did you mean temperature?",
        ),
        ("[port]\nx = 1", "port: "),
    ],
)
def test_an_unknown_key_of_the_file_names_the_nearest_where_it_stands(toml: str, words: str) -> None:
    write(toml)
    assert refusal().startswith(words)


def test_an_unknown_flag_names_the_nearest() -> None:
    assert refusal(prot=1) == "prot is no setting. Did you mean port?"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": 70_000}, r"port: Input should be less than or equal to 65535 \(not 70000\)"),
        ({"port": "http"}, r"port: .*\(not 'http'\)"),
        ({"queue_timeout": 0}, "queue_timeout: .*greater than 0"),
        ({"context_length": 1}, "context_length: .*greater than or equal to 2"),
        ({"max_concurrency": 0}, "max_concurrency: "),
        ({"model_type": "nope"}, r"model_type: .*'text'.*\(not 'nope'\)"),
        ({"models": ({"id": "x"},)}, "models.0.source: Field required"),
        ({"models": ({"source": "x", "kind": "whisper-2"},)}, r"models.0.kind: .*\(not 'whisper-2'\)"),
        ({"models": ({"id": "", "source": "x"},)}, "models.0.id: .*at least 1 character"),
        ({"models": ("",)}, "models.0.*: .*at least 1 character"),
    ],
)
def test_a_bad_value_is_named_with_what_would_be_good(flags: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=f"^{words}"):
        load_settings(**flags)


def test_every_bad_value_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MCP_PORT", "-1")
    assert [line.partition(":")[0] for line in refusal(queue_size=0).splitlines()] == ["port", "queue_size"]


def test_the_file_is_the_one_that_is_named_else_the_one_here_else_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("port = 1", tmp_path / "config" / "mlx-mcp" / "mlx-mcp.toml")
    assert load_settings().port == 1
    write("port = 2")
    assert load_settings().port == 2
    monkeypatch.setenv("MLX_MCP_CONFIG", str(write("port = 3", tmp_path / "mine.toml")))
    assert load_settings().port == 3


def test_a_named_file_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write("port = 2")
    monkeypatch.setenv("MLX_MCP_CONFIG", str(tmp_path / "absent.toml"))
    assert f"MLX_MCP_CONFIG names {tmp_path / 'absent.toml'}, and there is no such file." in refusal()


def test_a_named_file_may_be_in_the_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write("port = 4", tmp_path / "mine.toml")
    monkeypatch.setenv("MLX_MCP_CONFIG", "~/mine.toml")
    assert load_settings().port == 4


@pytest.mark.parametrize("content", [b"port = = 1", b"port = '\xff'"])
def test_a_file_that_is_no_toml_is_named(content: bytes) -> None:
    Path("mlx-mcp.toml").write_bytes(content)
    assert refusal().startswith("mlx-mcp.toml: ")


def test_models_are_sources_or_tables() -> None:
    write(
        """
        [[models]]
        source = "org/large@v2"
        aliases = ["gpt-4"]
        kind = "text"
        context_length = 4096

        [[models]]
        id = "mine"
        source = "/models/of/mine"
        """
    )
    first, second = load_settings().models
    assert (first.id, first.source, first.aliases, first.context_length) == (
        "org/large",
        "org/large@v2",
        ("gpt-4",),
        4096,
    )
    assert (second.id, second.kind, second.context_length) == ("mine", None, None)
    write("models = ['org/one', '/models/two']")
    assert [model.id for model in load_settings().models] == ["org/one", "two"]
    assert [model.id for model in load_settings(models=["org/three"]).models] == ["org/three"]


def test_models_of_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MCP_MODELS", "org/one, /models/two ,starter:three,")
    assert [model.id for model in load_settings().models] == ["org/one", "two", "three"]
    monkeypatch.setenv("MLX_MCP_MODELS", "")
    assert load_settings().models == ()


def test_the_predecessors_name_of_a_kind_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings(model_type="lm").model_type == "text"
    monkeypatch.setenv("MLX_MCP_MODEL_TYPE", "lm")
    assert load_settings().model_type == "text"
    assert ModelSettings.model_validate({"source": "a/b", "kind": "lm"}).kind == "text"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("org/tiny", "org/tiny"),
        ("org/tiny@v1.0", "org/tiny"),
        ("starter:smollm2-135m-instruct", "smollm2-135m-instruct"),
        ("/models/mine", "mine"),
        ("/models/mine/", "mine"),
        ("/models/mine@v2", "mine@v2"),
        ("./org/mine", "mine"),
        ("./org/../org/mine/", "mine"),
        ("~/org/mine", "mine"),
        ("org/here", "here"),
        (".", "here"),
    ],
)
def test_a_model_is_named_after_its_source(alone: Path, source: str, name: str) -> None:
    (alone / "org" / "here").mkdir(parents=True)
    assert default_id(source) == name
    assert ModelSettings.model_validate(source).id == name


@pytest.mark.parametrize("source", ["a" * 5000, "~no-such-user/model", "/a\0b", "a\0b", "/", "starter:", "@v1", "a b"])
def test_what_is_no_source_is_its_own_name(source: str) -> None:
    assert default_id(source) == source


def test_a_loop_of_links_is_its_own_name(alone: Path) -> None:
    (alone / "loop").symlink_to("loop")
    assert default_id("./loop") in {"./loop", "loop"}
