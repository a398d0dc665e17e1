"""The house of DESIGN: which room may import which, and which rooms have doors to the outside.

ruff refuses event loops, clocks and the like in the pure rooms; here each room is held to its own
list, so that the server cannot name the WebSocket library, nor the wire a message.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

PACKAGE = Path(__file__).parent.parent / "relay"

WATCHED = {
    "asyncio",
    "cyclopts",
    "h11",
    "cryptography",
    "httpx2",
    "opentelemetry",
    "json",
    "jwt",
    "logging",
    "numpy",
    "random",
    "resource",
    "secrets",
    "socket",
    "soxr",
    "ssl",
    "structlog",
    "time",
    "trio",
    "trio_util",
    "trio_websocket",
    "uuid",
    "wsproto",
}
"""Doors to the outside and heavy guests: a room imports one only if its list says so."""


class Room(msgspec.Struct, frozen=True):
    neighbours: set[str] = set()
    """Other rooms that it may import."""
    doors: set[str] = set()
    """Modules of `WATCHED` that it may import."""


CODECS = {"voice_agent", "realtime"}

ROOMS = {
    "errors": Room(),
    "frames": Room(),
    "audio": Room(doors={"numpy", "soxr"}),
    "voice_agent": Room({"errors", "frames"}),
    "realtime": Room({"errors", "frames"}),
    "settings": Room({"errors", "frames", "audio"} | CODECS),
    "session": Room({"errors", "frames", "audio", "settings"} | CODECS),
    "limits": Room(),
    "metering": Room(
        {"limits", "logs", "parking", "prices", "session", "store"}, {"structlog", "time", "trio"}
    ),
    "overload": Room(),
    "prices": Room({"session"}),
    "parking": Room(),
    "store": Room({"config"}, {"cryptography", "structlog", "time", "trio", "trio_util"}),
    "continuity": Room(
        {"config", "logs", "parking", "session", "store", "voice_agent"},
        {"structlog", "time", "trio"},
    ),
    "config": Room(
        {"limits", "overload", "prices", "session", "settings", "simulator", "voice_agent"}
    ),
    "dialogue": Room({"audio", "frames", "voice_agent"}),
    "admission": Room({"config", "limits", "parking", "session", "wire"}),
    "tokens": Room({"admission", "config"}, {"cryptography", "jwt"}),
    "websocket": Room(doors={"numpy"}),
    "lines": Room(doors={"trio", "socket", "ssl"}),
    "upkeep": Room(doors={"trio"}),
    "switchboard": Room({"upkeep"}, {"trio"}),
    "wire": Room(
        {"causes", "errors", "lines", "switchboard", "upkeep", "websocket"},
        {"trio", "trio_websocket", "h11", "socket", "ssl"},
    ),
    "causes": Room(doors={"ssl"}),
    "supervision": Room(),
    "link": Room({"continuity", "limits", "metrics", "observer", "parking"}, {"trio", "trio_util"}),
    "hub": Room({"continuity", "limits", "link", "metering", "session"}, {"trio"}),
    "worker": Room(
        {
            "causes",
            "config",
            "continuity",
            "heap",
            "limits",
            "link",
            "logs",
            "metering",
            "parking",
            "served",
            "server",
            "session",
        },
        {"socket", "structlog", "trio", "trio_util"},
    ),
    "workers": Room(
        {
            "admin",
            "config",
            "continuity",
            "hub",
            "link",
            "logs",
            "metering",
            "metrics",
            "observer",
            "ready",
            "reload",
            "served",
            "server",
            "supervision",
            "systemd",
            "watch",
        },
        {"socket", "structlog", "trio", "trio_util"},
    ),
    "bridge": Room(
        {
            "continuity",
            "errors",
            "frames",
            "limits",
            "metering",
            "observer",
            "parking",
            "session",
            "settings",
            "upkeep",
            "wire",
            "audio",
        }
        | CODECS,
        {"trio", "trio_util", "structlog", "time"},
    ),
    "functions": Room(
        {"causes", "config", "session", "settings"}, {"httpx2", "ssl", "structlog", "trio"}
    ),
    "metrics": Room(),
    "correlation": Room(),
    "observer": Room({"correlation", "frames", "metrics", "session"} | CODECS),
    "admin": Room({"config", "metrics", "observer", "wire"}, {"structlog", "trio"}),
    "process": Room(),
    "tracing": Room(
        {"config", "correlation", "frames", "observer", "session"} | CODECS,
        {"opentelemetry", "trio"},
    ),
    "watch": Room(
        {"lag", "metering", "metrics", "observer", "process", "reload"}, {"time", "trio"}
    ),
    "lag": Room(doors={"trio"}),
    "systemd": Room({"config"}, doors={"trio", "socket", "structlog", "time"}),
    "logs": Room(doors={"logging", "structlog"}),
    "heap": Room(),
    "descriptors": Room({"limits"}, {"resource", "structlog"}),
    "certificates": Room({"config"}, {"ssl"}),
    "served": Room(
        {"admission", "certificates", "config", "limits", "session", "settings", "tokens"}, {"ssl"}
    ),
    "reload": Room({"config", "served", "systemd"}, {"structlog", "time", "trio"}),
    "server": Room(
        {
            "admin",
            "admission",
            "bridge",
            "config",
            "continuity",
            "correlation",
            "descriptors",
            "functions",
            "heap",
            "lag",
            "limits",
            "lines",
            "logs",
            "metering",
            "metrics",
            "observer",
            "overload",
            "parking",
            "probe",
            "ready",
            "reload",
            "served",
            "session",
            "simulator.server",
            "switchboard",
            "systemd",
            "tracing",
            "watch",
            "wire",
        },
        {"trio", "trio_util", "structlog", "time", "uuid"},
    ),
    "ready": Room({"config"}),
    "simulate": Room({"ready", "simulator.server"}, {"trio", "structlog"}),
    "probe": Room({"realtime", "served", "wire"}, {"trio"}),
    "check": Room({"config", "limits", "probe", "served", "simulator.server"}, {"trio"}),
    "talk": Room(
        {
            "audio",
            "config",
            "dialogue",
            "errors",
            "frames",
            "served",
            "server",
            "voice_agent",
            "wire",
        },
        {"trio", "trio_util", "time", "uuid"},
    ),
    "simulator": Room({"audio", "errors", "frames", "realtime"}, {"numpy"}),
    "simulator.server": Room(
        {"audio", "errors", "frames", "realtime", "simulator", "wire"},
        {"trio", "trio_util", "structlog", "time", "uuid", "random", "secrets"},
    ),
    "cli": Room(
        {
            "causes",
            "check",
            "config",
            "logs",
            "server",
            "simulate",
            "simulator.server",
            "talk",
            "tokens",
            "workers",
        },
        {"cyclopts", "structlog", "time", "trio"},
    ),
    "__main__": Room({"cli"}),
    "__init__": Room(),
}


def room_of(module: str) -> str:
    """`session.turns` -> session, but `simulator.server` is a room of its own."""
    parts = module.split(".")
    pair = ".".join(parts[:2])
    return pair if pair in ROOMS else parts[0]


def imports_of(source: str, module: str) -> Iterator[str]:
    """What the source imports anywhere, absolute: `relay.audio.formats.Format`, `trio.Event`."""
    package = ["relay", *module.split(".")][:-1]
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                base = package[: len(package) - level + 1] if level else []
                parent = ".".join([*base, *([origin] if origin else [])])
                # Whether `b` of `from relay.a import b` is a module or not, its room is the same.
                yield from (f"{parent}.{name.name}" for name in names)
            case _:
                pass


def trespasses(source: str, module: str) -> list[str]:
    """The imports of one file that its room does not allow."""
    home = room_of(module)
    room = ROOMS[home]
    found = []
    for imported in imports_of(source, module):
        top, _, inner = imported.partition(".")
        if top == "relay":
            neighbour = room_of(inner)
            if inner and neighbour != home and neighbour not in room.neighbours:
                found.append(imported)
        elif top in WATCHED - room.doors:
            found.append(imported)
    return found


FILES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


@pytest.mark.parametrize("module", FILES)
def test_a_file_imports_only_what_its_room_allows(module: str) -> None:
    assert room_of(module) in ROOMS, f"{module} is in no room: draw it in DESIGN and in ROOMS"
    assert trespasses(FILES[module].read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("session.turns", "import trio"),
        ("session.turns", "import time"),
        ("session.turns", "from relay import wire"),
        ("session.turns", "from relay.wire import Leg"),
        ("session.turns", "from .. import wire"),
        ("session.turns", "from ..wire import Leg"),
        ("session.turns", "def late():\n    import trio.socket"),
        ("server", "import trio_websocket"),
        ("bridge", "from trio_websocket import WebSocketConnection"),
        ("wire", "from relay import voice_agent"),
        ("audio.playback", "from relay.session import facts"),
        ("simulator.conversation", "import trio"),
    ],
)
def test_an_import_through_a_wall_is_seen(module: str, source: str) -> None:
    assert len(trespasses(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("session.turns", "from relay.session.actions import Note"),
        ("session.turns", "from . import actions"),
        ("session.turns", "import msgspec"),
        ("wire", "import trio_websocket"),
    ],
)
def test_an_import_through_a_door_is_not(module: str, source: str) -> None:
    assert trespasses(source, module) == []
