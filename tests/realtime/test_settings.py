"""Settings are read once, and what cannot be meant is said clearly."""

from dataclasses import fields
from pathlib import Path

import pytest

from realtime.settings import Settings, SettingsError, is_loopback, option

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_command_line_wins_over_the_environment_and_that_over_the_defaults() -> None:
    """Each option is also a variable; what was typed just now is what is meant."""
    environment = {"RUNSTREAM_PORT": "9000", "RUNSTREAM_WORKERS": "3", "RUNSTREAM_URL": "x"}
    settings = Settings.read(environment, port="9001", host=None)
    assert (settings.port, settings.workers, settings.host) == (9001, 3, "127.0.0.1")


def test_an_empty_variable_counts_as_none() -> None:
    """Compose files and shells leave them behind: `RUNSTREAM_REDIS=`."""
    settings = Settings.read({"RUNSTREAM_REDIS": "", "RUNSTREAM_PORT": "", "RUNSTREAM_API_KEY": ""})
    assert (settings.redis, settings.port, settings.api_key) == (None, 8080, None)


@pytest.mark.parametrize(
    "name, text, meant",
    [
        ("slow_consumer_s", "2.5", 2.5),
        ("deflate", "yes", True),
        ("deflate", "0", False),
        ("allowed_origins", "https://a.example, https://b.example", 2),
        ("delete_final_after_days", "30", 30.0),
        ("log_level", "DEBUG", "debug"),
    ],
)
def test_text_is_read_as_the_type_that_is_meant(name: str, text: str, meant: object) -> None:
    """All that the environment has is text."""
    value = getattr(Settings.read({"RUNSTREAM_" + name.upper(): text}), name)
    assert (len(value) if isinstance(value, tuple) else value) == meant


@pytest.mark.parametrize(
    "name, text",
    [
        ("port", "x"),
        ("port", "-1"),
        ("port", "65536"),
        ("workers", "0"),
        ("workers", "2.5"),
        ("drain_s", "nan"),
        ("retention_days", "inf"),
        ("deflate", "perhaps"),
        ("api_key", "too-short"),
        ("api_key", "sixteen chars and spaces"),
        ("database", "mysql://localhost/x"),
        ("database", "sqlite://"),
        ("database", "sqlite:///:memory:"),
        ("database", "runstream.db"),
        ("redis", "localhost:6379"),
        ("log_level", "loud"),
        ("loop", "fast"),
        ("allowed_origins", "example.com"),
        ("host", "a b"),
        ("nesting", "100000"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_names_of_option_and_variable(
    name: str, text: str
) -> None:
    """A server that starts with a wrong setting fails later, where nobody looks."""
    with pytest.raises(SettingsError) as refused:
        Settings.read({}, **{name: text})
    assert "--" + name.replace("_", "-") in str(refused.value)
    assert "RUNSTREAM_" + name.upper() in str(refused.value)


@pytest.mark.parametrize(
    "given",
    ["postgresql://u:p@h/d", "postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d",
     "postgresql+asyncpg://u:p@h/d"],
)  # fmt: skip
def test_any_driver_of_postgresql_becomes_the_one_that_is_used(given: str) -> None:
    """A bare `postgresql://` means another driver to the library below."""
    assert Settings(database=given).database == "postgresql+asyncpg://u:p@h/d"


def test_secrets_do_not_show_in_the_representation() -> None:
    """Settings end up in logs and tracebacks."""
    settings = Settings(
        api_key="0123456789-secret-key",
        database="postgresql://me:hidden@host/db",
        redis="redis://:hidden@host",
    )
    assert "secret-key" not in repr(settings)
    assert "hidden" not in repr(settings)


def test_several_workers_need_a_port_to_share() -> None:
    """With port 0 each would take one of its own."""
    with pytest.raises(SettingsError, match="workers"):
        Settings(workers=2, port=0)


@pytest.mark.parametrize(
    "host, loopback",
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("app.localhost", True),
        ("::1", True),
        ("[::1]", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("notlocalhost", False),
        ("", False),
        ("2130706433", False),
    ],
)
def test_only_this_machine_counts_as_loopback(host: str, loopback: bool) -> None:
    """Where nobody has a key, this decides who may do everything."""
    assert is_loopback(host) is loopback


def table() -> str:
    """All settings, as the page for who runs a server has them."""
    rows = ["| option | default | |", "| --- | --- | --- |"]
    for each in fields(Settings):
        match each.default:
            case None:
                default = "–"
            case bool():
                default = "on" if each.default else "off"
            case int() if each.default >= 10_000:
                default = f"{each.default:,}"
            case float() if each.default.is_integer():
                default = f"{each.default:.0f}"
            case tuple():
                default = ",".join(each.default) or "–"
            case _:
                default = str(each.default)
        rows.append(f"| `{option(each.name)}` | {default} | {each.metadata['help']} |")
    return "\n".join(rows)


def test_the_page_names_every_setting_as_it_is() -> None:
    """Whoever runs a server looks there; this prints what belongs there."""
    assert table() in PAGE.read_text(encoding="utf-8"), f"docs/operations.md:\n{table()}"
