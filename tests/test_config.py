"""Configuration: four sources, one struct, and errors that name their path."""

import hashlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec
import pytest

from relay import config
from relay.config import Address, Config, ConfigError
from relay.limits import ClientLimits, Limits, Rules
from relay.session.facts import Dialect
from relay.settings.options import MappingOptions

ROOT = Path(__file__).parent.parent


def loaded(*assignments: str, **environment: str) -> Config:
    return config.load(None, environment, assignments)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "relay.toml"


def test_a_later_source_wins(file: Path) -> None:
    file.write_text('[listen]\nport = 1\nhost = "::1"\n[log]\nlevel = "error"\nformat = "json"\n')
    environment = {"RELAY_LISTEN__PORT": "2", "RELAY_LOG__LEVEL": "warning"}
    found = config.load(file, environment, ["listen.port=3"], {"log.level": "debug"})
    assert (found.listen.host, found.listen.port) == ("::1", 3)
    assert (found.log.level, found.log.format) == ("debug", "json")


def test_of_two_assignments_the_later_wins() -> None:
    assert loaded("listen.port=1", "listen.port=2").listen.port == 2


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("listen.port=3", "listen.port", 3),
        ('listen.host="localhost"', "listen.host", "localhost"),
        ("listen.host=localhost", "listen.host", "localhost"),
        ("listen.host = localhost", "listen.host", "localhost"),
        ('listen.deepgram_paths=["/a", "/b"]', "listen.deepgram_paths", ("/a", "/b")),
        ("auth.allow_anonymous=true", "auth.allow_anonymous", True),
        ('auth.query_token=["deepgram"]', "auth.query_token", (Dialect.DEEPGRAM,)),
        ("auth.keys_file=/etc/keys", "auth.keys_file", Path("/etc/keys")),
        ("upstream.url=ws://host/path?a=b", "upstream.url", "ws://host/path?a=b"),
        ("session.drain_s=2", "session.drain_s", 2.0),
    ],
)
def test_a_value_is_toml_if_it_can_be_and_text_if_not(
    assignment: str, path: str, value: object
) -> None:
    found: Any = loaded(assignment)
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value


def test_the_admin_pages_are_for_this_machine_unless_others_are_meant() -> None:
    assert loaded("admin.host=0.0.0.0").admin.port == 0  # there are none
    assert loaded("admin.port=9090").admin.host == "127.0.0.1"
    with pytest.raises(ConfigError, match=r"^admin.host: .* admin.allow_anonymous=true"):
        loaded("admin.host=0.0.0.0", "admin.port=9090")
    assert loaded("admin.host=::", "admin.port=9090", "admin.allow_anonymous=true").admin.port


def test_an_environment_value_is_read_the_same_way() -> None:
    found = loaded(RELAY_LISTEN__DEEPGRAM_PATHS='["/a"]', RELAY_UPSTREAM__URL="simulator")
    assert found.listen.deepgram_paths == ("/a",)
    assert found.upstream.url == "simulator"


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("listen.prot=1", "listen.prot: unknown key"),
        ("listne.port=1", "listne: unknown key"),
        ("session.drain=1", "session.drain: unknown key"),
        ("listen.port=abc", "listen.port: expected `int`, got `str`"),
        ("listen.port=true", "listen.port: expected `int`, got `bool`"),
        ("listen.port=65536", "listen.port: expected `int` <= 65535"),
        ("listen=3", "listen: expected a table, got `int`"),
        ("listen.port.x=3", "listen.port: expected `int`, got a table"),
        ("listen.port=1\nlisten.host=2", "listen.port: expected `int`, got `str`"),
        ("session.drain_s=nan", "session.drain_s: expected `float`, got `str`"),
        ("listen.tls_cert=3", "listen.tls_cert: expected a path"),
        ('listen.component_paths=["/a", "b"]', "listen.component_paths[1]: "),
        ("log.level=loud", "log.level: invalid enum value 'loud'"),
        ('auth.query_token=["browser"]', "auth.query_token[0]: invalid enum value 'browser'"),
        ("listen.port", "--set listen.port: expected section.key=value"),
        ("=3", "--set : expected section.key=value"),
        ("listen.tls_cert=/a", "listen.tls_cert and listen.tls_key: one needs the other"),
        ("listen.component_paths=['/v1/agent/converse/']", "listen.component_paths: "),
        ("upstream.url=https://host", "upstream.url: expected ws://"),
        ("upstream.url=ws://", "upstream.url: expected ws://"),
        ("upstream.url=ws://host:99999", "upstream.url: expected ws://"),
        ("upstream.url=ws://user:secret@host", "upstream.url: expected ws://"),
        ("upstream.url=ws://host/#x", "upstream.url: expected ws://"),
        ("functions.endpoints=['https://a', 'a']", "functions.endpoints[1]: expected http"),
        ("functions.endpoints=['https://a/?b']", "functions.endpoints[0]: expected http"),
        ("functions.endpoints=['https://me:secret@a']", "functions.endpoints[0]: expected http"),
        ("functions.timeout_s=0", "functions.timeout_s: expected"),
        ("functions.max_calls=0", "functions.max_calls: expected"),
        ("listen.host=0.0.0.0", "auth.mode: none would let anyone in"),
        ("listen.host=relay.example", "auth.mode: none would let anyone in"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_path(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        loaded(assignment)
    assert str(error.value).startswith(message)


def test_an_unknown_key_in_the_environment_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^listen\.prot: unknown key$"):
        loaded(RELAY_LISTEN__PROT="1")


def test_a_variable_that_sets_nothing_is_named_but_no_error() -> None:
    environment = {"RELAY_PORT": "tcp://10.0.0.1:80", "RELAY_LISTEN__PORT": "1", "HOME": "/"}
    assert config.load(None, environment).listen.port == 1
    assert config.ignored_names(environment) == ["RELAY_PORT"]


def test_what_editors_of_another_system_add_is_no_fault(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[listen]\r\nport = 1\r\n")
    assert config.load(file, {}).listen.port == 1


def test_a_file_that_is_missing_or_no_toml_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        config.load(file, {})
    file.write_text("[listen\n")
    with pytest.raises(ConfigError, match="line 1"):
        config.load(file, {})
    file.write_text("[session]\ndrain_s = -nan\n")
    with pytest.raises(ConfigError, match="nan is not a value"):
        config.load(file, {})
    file.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(file, {})


def structs(struct: type[msgspec.Struct]) -> Iterator[type[msgspec.Struct]]:
    yield struct
    for hint in get_type_hints(struct).values():
        for member in (hint, *get_args(hint)):
            if isinstance(member, type) and issubclass(member, msgspec.Struct):
                yield from structs(member)


OPEN = {"Agent"}
"""Taken as Settings carries it, so as lenient as Settings is."""


@pytest.mark.parametrize("struct", set(structs(Config)), ids=lambda s: s.__name__)
def test_every_table_is_frozen_and_refuses_what_it_does_not_know(
    struct: type[msgspec.Struct],
) -> None:
    if struct.__module__ == "relay.voice_agent":
        return
    assert struct.__struct_config__.frozen
    assert struct.__struct_config__.forbid_unknown_fields


EXAMPLE = ROOT / "systemd" / "relay.toml"


def test_every_key_of_the_shipped_example_holds_also_those_in_comments() -> None:
    live = re.sub(r'^# (?=["\w-]+ = |\[\[)', "", EXAMPLE.read_text(), flags=re.MULTILINE)
    tree = tomllib.loads(live)
    assert config.convert(tree).auth.keys_file == Path("/etc/relay/keys")
    assert list(tree) == list(config.Config.__struct_fields__), "a section is missing or astray"


def test_what_is_no_comment_in_the_shipped_example_is_the_default() -> None:
    assert config.load(EXAMPLE, {}) == config.Config()


def test_a_credential_that_may_not_be_read_is_no_missing_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"^credential openai-api-key: cannot read .*Not a dir"):
        config.upstream(config.Config(), {"CREDENTIALS_DIRECTORY": str(file)})


# The upstream.


def upstream(*assignments: str, **environment: str) -> Address:
    return config.upstream(config.load(None, {}, assignments), environment)


@pytest.mark.conformance("C-012")
def test_a_key_alone_means_openai() -> None:
    found = upstream(OPENAI_API_KEY=" sk-1\n")
    assert found == Address(config.OPENAI_URL, "sk-1", "the key")


def test_no_key_at_loopback_means_the_simulator() -> None:
    assert upstream() == Address("simulator", None, "the lack of a key")
    assert upstream(OPENAI_API_KEY="").simulated


@pytest.mark.parametrize("variable", ["NOTIFY_SOCKET", "INVOCATION_ID"])
def test_a_service_without_a_key_does_not_fall_back_to_the_simulator(variable: str) -> None:
    with pytest.raises(ConfigError, match="no key found"):
        upstream(**{variable: "x"})
    assert upstream("upstream.url=simulator", **{variable: "x"}).simulated


def test_a_public_address_without_a_key_does_not_fall_back_to_the_simulator() -> None:
    public = ("listen.host=0.0.0.0", "auth.allow_anonymous=true")
    with pytest.raises(ConfigError, match="no key found"):
        upstream(*public)
    assert upstream(*public, "upstream.url=simulator").simulated


def test_the_key_file_comes_before_the_environment_and_that_before_the_credential(
    tmp_path: Path,
) -> None:
    (tmp_path / "openai-api-key").write_text("credential\n")
    (tmp_path / "file").write_text("file\n")
    credential = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    both = {**credential, "OPENAI_API_KEY": "variable"}
    assert upstream(**credential).api_key == "credential"
    assert upstream(**both).api_key == "variable"
    assert upstream(f"upstream.api_key_file={tmp_path / 'file'}", **both).api_key == "file"


def test_the_simulator_gets_no_key() -> None:
    assert upstream("upstream.url=simulator", OPENAI_API_KEY="sk-1").api_key is None


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "naïve"])
def test_a_key_that_no_header_can_carry_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "file").write_text(content)
    with pytest.raises(ConfigError, match="upstream"):
        upstream(f"upstream.api_key_file={tmp_path / 'file'}")


@pytest.mark.conformance("C-007")
def test_an_address_does_not_print_its_key() -> None:
    assert "secret" not in f"{Address('ws://h', 'secret')} {Address('ws://h', 'secret')!r}"


@pytest.mark.conformance("C-235")
@pytest.mark.parametrize(
    ("url", "dialled"),
    [
        ("ws://h:1/v1", "ws://h:1/v1?model=gpt-x"),
        ("ws://h", "ws://h?model=gpt-x"),
        ("wss://h/v1?api-version=2", "wss://h/v1?api-version=2&model=gpt-x"),
        ("wss://h/v1?model=mine", "wss://h/v1?model=mine"),
        ("wss://h/v1?model=", "wss://h/v1?model="),
    ],
)
def test_the_model_is_added_to_the_query_unless_it_is_there(url: str, dialled: str) -> None:
    assert Address(url).url_for("gpt-x") == dialled


@pytest.mark.conformance("C-012")
def test_the_key_goes_into_the_header() -> None:
    assert Address("ws://h", "sk-1").headers == {"Authorization": "Bearer sk-1"}
    assert Address("ws://h").headers == {}


def test_what_the_log_shows_of_an_upstream_can_hold_no_key() -> None:
    assert Address("wss://h:8/v1?api-key=sk-1").shown == "wss://h:8/v1"
    assert Address("simulator").shown == "simulator"


# What the rooms are given.


def test_every_option_of_the_mapping_has_its_key_and_its_default() -> None:
    built = Config().mapping_options
    assert built == MappingOptions()
    changed = loaded(
        "upstream.model=a",
        "upstream.voice=b",
        "upstream.transcription_model=c",
        "upstream.g711=false",
        'models."gpt-4.1"=d',
        "voices.aura-2-thalia-en=e",
        "transcription_models.nova-3=f",
        'agents.desk.think.prompt="g"',
        "turns.threshold=0.1",
        "passthrough.logprobs=true",
        "mapping.reasoning_models=['h']",
        "mapping.prompt_limit_chars=1",
        "mapping.functions_prompt=i",
        "mapping.retention_ratio=0.2",
        "functions.endpoints=['https://fns.test']",
    ).mapping_options
    same = {
        field
        for field in MappingOptions.__struct_fields__
        if getattr(changed, field) == getattr(built, field)
    }
    assert not same
    assert changed.models == {"gpt-4.1": "d"}


def test_a_script_stands_in_place_of_the_file_and_can_be_changed(
    file: Path, tmp_path: Path
) -> None:
    file.write_text('[simulator]\ntranscripts = ["one"]\n')
    assert config.load(file, {}).simulator.transcripts == ("one",)
    script = tmp_path / "script.toml"
    script.write_text("[knobs]\npace = 2.0\n[[turn]]\nsay = 'hello'\n")
    found = config.load(file, {}, ["simulator.knobs.think_s=0"], script=script).simulator
    assert (found.transcripts, found.turn[0].say) == ((), "hello")
    assert (found.knobs.pace, found.knobs.think_s) == (2.0, 0.0)
    script.write_text('[[turn]]\ncall = [{ name = "f", arguments = { city = "Paris" } }]\n')
    (turn,) = config.load(None, {}, script=script).simulator.turn
    assert turn.call[0].arguments == {"city": "Paris"}
    script.write_text("[knobs]\npaec = 2.0\n")
    with pytest.raises(ConfigError, match=r"^simulator\.knobs\.paec: unknown key$"):
        config.load(None, {}, script=script)


# The clients' keys.

HASH = hashlib.sha256(b"k").hexdigest()


def test_a_keys_file_has_a_name_and_a_hash_on_each_line(file: Path) -> None:
    file.write_text(f"# ours\n\nlaptop:{HASH}\n phone : {'AB' * 32} \n")
    found, _ = config.keys_and_rules(loaded("auth.mode=keys", f"auth.keys_file={file}"), {})
    assert found == {bytes.fromhex(HASH): "laptop", b"\xab" * 32: "phone"}


def test_without_a_keys_file_the_credential_is_read(tmp_path: Path) -> None:
    (tmp_path / "relay-keys").write_text(f"laptop:{HASH}\n")
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    found, _ = config.keys_and_rules(loaded("auth.mode=keys"), environment)
    assert list(found.values()) == ["laptop"]


@pytest.mark.parametrize("content", ["secret", "name:secret", f"name:{HASH}:10", "", "# none\n"])
def test_a_keys_file_that_is_none_is_refused_without_quoting_it(file: Path, content: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError, match=r"^auth\.keys_file: ") as error:
        config.keys_and_rules(loaded("auth.mode=keys", f"auth.keys_file={file}"), {})
    assert "secret" not in str(error.value)


def rules_of(file: Path, *assignments: str) -> Rules:
    configured = loaded("auth.mode=keys", f"auth.keys_file={file}", *assignments)
    return config.keys_and_rules(configured, {})[1]


def test_a_key_may_have_limits_of_its_own_beside_the_common_ones(file: Path) -> None:
    file.write_text(
        f"laptop:{HASH}  sessions=5 audio_minutes_per_hour=1.5\n"
        f"phone:{'AB' * 32}\nserver:{'CD' * 32} sessions=0\n"
    )
    found = rules_of(
        file, "limits.sessions=100", "limits.key.sessions=2", "limits.key.tokens_per_day=9"
    )
    assert found.total == Limits(sessions=100)
    assert found.of("phone") == found.of("anybody") == ClientLimits(sessions=2, tokens_per_day=9)
    assert found.of("laptop") == ClientLimits(
        sessions=5, audio_minutes_per_hour=1.5, tokens_per_day=9
    )
    assert found.of("server") == ClientLimits(tokens_per_day=9)
    names, _ = config.keys_and_rules(loaded("auth.mode=keys", f"auth.keys_file={file}"), {})
    assert set(names.values()) == {
        "laptop",
        "phone",
        "server",
    }


def test_without_keys_there_are_the_common_limits() -> None:
    assert config.keys_and_rules(config.Config(), {}) == ({}, Rules())
    _, found = config.keys_and_rules(loaded("limits.key.session_minutes=2.5"), {})
    assert found.of("[127.0.0.1]") == (ClientLimits(session_minutes=2.5))


@pytest.mark.parametrize(
    ("behind", "complaint"),
    [
        ("sessions=five", "only limits may stand"),
        ("sessions=1.5", "sessions: expected `int`"),
        ("sessions=-1", "only limits may stand"),
        ("sessions=nan", "only limits may stand"),
        ("sessions=1 sessions=2", "each once"),
        ("secret", "they are sessions, audio_minutes_per_hour, "),
        ("secret=1", "only limits may stand"),
        ("sessions=1,tokens_per_day=2", "only limits may stand"),
    ],
)
def test_a_limit_that_is_none_is_refused_with_the_line_it_is_in(
    file: Path, behind: str, complaint: str
) -> None:
    file.write_text(f"# keys\nlaptop:{HASH} {behind}\n")
    with pytest.raises(ConfigError, match=r"^auth\.keys_file: .*, line 2: ") as error:
        rules_of(file)
    assert complaint in str(error.value)
    assert "secret" not in str(error.value)


def test_two_keys_of_a_name_have_the_same_limits(file: Path) -> None:
    file.write_text(f"laptop:{HASH} sessions=5\nlaptop:{'AB' * 32} sessions=5\n")
    assert rules_of(file).of("laptop").sessions == 5
    file.write_text(f"laptop:{HASH} sessions=5\nlaptop:{'AB' * 32}\n")
    with pytest.raises(ConfigError, match=r"line 2: laptop has other limits on another line"):
        rules_of(file)


def test_keys_without_a_file_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^auth\.keys_file: needed"):
        config.keys_and_rules(loaded("auth.mode=keys"), {})


# Fallbacks.


def with_fallbacks(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "relay.toml"
    file.write_text('[upstream]\nurl = "wss://first.example/v1"\n' + text)
    return config.load(file, {})


def test_a_fallback_inherits_the_key_only_at_the_same_host(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("sk-third\n")
    read = with_fallbacks(
        tmp_path,
        '[[upstreams]]\nurl = "wss://first.example/v2"\n'
        '[[upstreams]]\nurl = "wss://second.example/v1"\nmodel = "m"\nends_responses = false\n'
        f'[[upstreams]]\nurl = "wss://third.example/v1"\napi_key_file = "{tmp_path / "key"}"\n',
    )
    found = config.fallbacks(read, config.upstream(read, {"OPENAI_API_KEY": "sk-first"}))
    assert [address.api_key for address in found] == ["sk-first", None, "sk-third"]
    assert [traits.model for traits in read.upstream_traits] == [None, None, "m", None]
    assert [traits.ends_responses for traits in read.upstream_traits] == [True, True, False, True]


def test_a_fallback_must_be_a_websocket_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"upstreams\[1\]\.url"):
        with_fallbacks(
            tmp_path,
            '[[upstreams]]\nurl = "ws://a.example"\n[[upstreams]]\nurl = "simulator"\n',
        )
