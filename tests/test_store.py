"""The store: what is asked for is there afterwards, and for nobody else to read."""

import importlib.util
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
import trio
from cryptography.fernet import Fernet

from relay import config, store
from relay.config import ConfigError
from relay.store import Found, MemoryStore, SqliteStore, Store

SECRET = b"what somebody said"


def on_disk(directory: Path) -> bytes:
    return b"".join(file.read_bytes() for file in directory.iterdir())


def modes(directory: Path) -> set[int]:
    return {stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()}


@asynccontextmanager
async def opened(kind: str, directory: Path) -> AsyncIterator[Store]:
    if kind == "memory":
        yield MemoryStore()
    else:
        async with store.sqlite_store(directory / "store") as kept:
            yield kept


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
async def test_the_newest_body_of_a_key_is_read_until_it_is_erased(
    kind: str, tmp_path: Path
) -> None:
    async with opened(kind, tmp_path) as kept:
        assert await kept.found() == Found()
        kept.write("a", lambda: b"1")
        kept.write("a", lambda: b"2")
        assert await kept.read("a") == b"2"
        await kept.written()
        assert await kept.read("a") == b"2"
        assert await kept.read("b") is None
        kept.erase("a")
        assert await kept.read("a") is None
        await kept.written()
        assert await kept.read("a") is None


async def test_a_page_is_kept_in_place_of_the_one_before_it(tmp_path: Path) -> None:
    async with store.sqlite_store(tmp_path / "store", max_age_s=0.0) as kept:
        assert await kept.page("a") is None
        kept.keep("a", lambda: b"1")
        kept.keep("a", lambda: SECRET)
        assert await kept.page("a") == SECRET
        await kept.written()
        assert await kept.page("a") == SECRET
    cipher = Fernet(Fernet.generate_key())
    async with store.sqlite_store(tmp_path / "store", max_age_s=0.0) as kept:
        assert await kept.found() == Found()
        assert await kept.page("a") == SECRET
    async with store.sqlite_store(tmp_path / "other", cipher=cipher) as kept:
        kept.keep("a", lambda: SECRET)
    assert SECRET not in (tmp_path / "other").read_bytes()
    async with store.sqlite_store(tmp_path / "other", cipher=cipher) as kept:
        assert await kept.page("a") == SECRET
    memory = MemoryStore()
    memory.keep("a", lambda: b"1")
    assert await memory.page("a") is None


async def test_a_later_process_finds_bodies_and_marks(tmp_path: Path) -> None:
    async with store.sqlite_store(tmp_path / "store") as kept:
        for key in ("a", "b", "c"):
            kept.write(key, key.encode)
        kept.mark("x")
        kept.mark("y")
        await kept.written()
        kept.erase("b")
        kept.unmark("x")
    async with store.sqlite_store(tmp_path / "store") as kept:
        assert await kept.found() == Found([b"a", b"c"], ["y"])


async def test_of_many_changes_only_the_last_one_is_made(tmp_path: Path) -> None:
    made: list[int] = []

    def body(n: int) -> bytes:
        made.append(n)
        return bytes([n])

    async with store.sqlite_store(tmp_path / "store") as kept:
        for n in range(20):
            kept.write("a", lambda n=n: body(n))  # type: ignore[misc]  # a default binds n
        await kept.written()
    assert made == [19]


async def test_what_is_over_by_the_time_it_is_written_stays_as_it_was(tmp_path: Path) -> None:
    async with store.sqlite_store(tmp_path / "store") as kept:
        kept.write("a", lambda: b"1")
        await kept.written()
        kept.write("a", lambda: None)
        await kept.written()
        assert await kept.read("a") == b"1"


async def test_cancelled_in_the_middle_it_still_writes_what_was_asked(tmp_path: Path) -> None:
    with trio.CancelScope() as scope:
        async with store.sqlite_store(tmp_path / "store") as kept:
            kept.write("a", lambda: b"1")
            scope.cancel()
            await trio.sleep_forever()
    async with store.sqlite_store(tmp_path / "store") as kept:
        assert await kept.read("a") == b"1"


async def test_the_file_is_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "store"
    path.touch(0o644)
    async with store.sqlite_store(path) as kept:
        kept.write("a", lambda: SECRET)
        await kept.written()
        assert modes(tmp_path) == {0o600}


async def test_two_relays_do_not_share_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BUSY_S", 0.05)
    async with store.sqlite_store(tmp_path / "store"):
        with pytest.raises(ConfigError, match="locked"):
            async with store.sqlite_store(tmp_path / "store"):
                pass


async def test_what_was_erased_is_nowhere_on_the_disk(tmp_path: Path) -> None:
    async with store.sqlite_store(tmp_path / "store") as kept:
        kept.write("a-key", lambda: SECRET)
        kept.write("b", lambda: b"stays")
        await kept.written()
        assert SECRET in on_disk(tmp_path)
        assert b"a-key" not in on_disk(tmp_path)
        kept.erase("a-key")
        await kept.written()
        assert SECRET not in on_disk(tmp_path)


async def test_what_is_too_old_is_erased_at_the_start(tmp_path: Path) -> None:
    async with store.sqlite_store(tmp_path / "store", wall=lambda: 1e9) as kept:
        kept.write("a", lambda: b"1")
        kept.mark("x")
    later = 1e9 + 3601
    async with store.sqlite_store(tmp_path / "store", wall=lambda: later) as kept:
        assert await kept.found() == Found([], ["x"])
    much_later = 1e9 + store.LABELS_KEPT_S + 1
    async with store.sqlite_store(tmp_path / "store", wall=lambda: much_later) as kept:
        assert await kept.found() == Found()


async def test_a_disk_that_fails_is_a_log_line_and_no_more(tmp_path: Path) -> None:
    with structlog.testing.capture_logs() as lines:
        async with store.sqlite_store(tmp_path / "store") as kept:
            assert isinstance(kept, SqliteStore)
            await trio.to_thread.run_sync(kept._file.execute, "DROP TABLE conversations")
            kept.write("a", lambda: b"1")
            await kept.written()
    assert [line["event"] for line in lines] == ["store failed"]


async def test_a_place_that_does_not_exist_is_named_once(tmp_path: Path) -> None:
    place = tmp_path / "nowhere" / "store"
    with pytest.raises(ConfigError) as refused:
        async with store.sqlite_store(place):
            pass
    assert str(refused.value) == f"store.url: cannot use {place}: No such file or directory"


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 99])
async def test_a_file_that_is_something_else_is_left_alone(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "store").write_bytes(content)
    with pytest.raises(ConfigError, match=r"^store\.url: cannot use"):
        async with store.sqlite_store(tmp_path / "store"):
            pass
    assert (tmp_path / "store").read_bytes() == content


# -- as configured --------------------------------------------------------------------------------


def configured(tmp_path: Path, *keys: bytes) -> config.Store:
    (tmp_path / "keys").write_bytes(b"\n".join(keys))
    return config.Store(url=f"sqlite:///{tmp_path}/store", key_file=tmp_path / "keys")


async def test_with_a_key_nothing_on_the_disk_can_be_read_without_it(tmp_path: Path) -> None:
    old, new = Fernet.generate_key(), Fernet.generate_key()
    async with store.opened(configured(tmp_path, old)) as kept:
        kept.write("a", lambda: SECRET)
        await kept.written()
        assert SECRET not in on_disk(tmp_path)
        assert await kept.read("a") == SECRET
    async with store.opened(configured(tmp_path, new, old)) as kept:
        assert (await kept.found()).bodies == [SECRET]
    async with store.opened(configured(tmp_path, new)) as kept:
        with pytest.raises(ConfigError, match=r"^store\.key_file: not the key"):
            await kept.found()


@pytest.mark.parametrize("content", [b"", b"planted", b"planted\n"])
async def test_a_file_without_a_key_is_refused_and_not_quoted(
    content: bytes, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="no Fernet key") as refusal:
        store.opened(configured(tmp_path, content))
    assert "planted" not in str(refusal.value)


async def test_without_a_url_it_is_memory() -> None:
    async with store.opened(config.Store()) as kept:
        assert not kept.durable


@pytest.mark.parametrize(
    ("assignments", "problem"),
    [
        (["store.url=redis://x"], r"^store\.url: expected sqlite:///PATH"),
        (["store.url=sqlite:///"], r"^store\.url: expected sqlite:///PATH"),
        (["store.key_file=/k"], r"^store\.key_file: encrypts nothing without store\.url"),
        (["store.max_age_s=0"], r"^store\.max_age_s"),
        (["session.resume_by_header=always"], r"^session\.resume_by_header"),
    ],
)
def test_what_cannot_be_done_is_refused(assignments: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config.load(None, {}, assignments)


def test_encryption_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"relay\[store-encryption\]"):
        config.load(None, {}, ["store.url=sqlite:///s", "store.key_file=/k"])
