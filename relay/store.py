"""store: where conversations wait while nobody holds them, and what a killed process leaves behind.

It knows keys, bytes, labels and pages; what they mean it does not. What it is asked to write is
written soon and in the background: who asks never waits. A later process finds the last of it.

    MemoryStore   as long as the process lives
    SqliteStore   a file of mode 0600, optionally encrypted; one thread writes, in small groups

A shared one would be a third with the same doors.
"""

import contextlib
import functools
import hashlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, TypeAlias, TypeVar

import msgspec
import structlog
import trio
from trio_util import AsyncValue

from relay import config
from relay.config import ConfigError

LABELS_KEPT_S = 30 * 86400.0
"""How long a mark stays; an SDK object lives as long as its program."""
BUSY_S = 5.0
"""How long a predecessor may take to let go of the file."""

log = structlog.get_logger()

_T = TypeVar("_T")

Body: TypeAlias = Callable[[], bytes | None]
"""What is to be written, made when that begins: of many changes only the last one costs. None:
there is nothing to write any more."""


class Found(msgspec.Struct):
    """What an earlier process left."""

    bodies: list[bytes] = []
    marks: list[str] = []


class Store(Protocol):
    """Keeps the newest body of each key, and marks."""

    @property
    def durable(self) -> bool:
        """Whether a later process finds anything."""

    async def found(self) -> Found:
        """What is there, at the start."""

    async def read(self, key: str) -> bytes | None: ...

    def write(self, key: str, body: Body) -> None: ...

    def erase(self, key: str) -> None: ...

    def mark(self, label: str) -> None: ...

    def unmark(self, label: str) -> None: ...

    async def page(self, name: str) -> bytes | None:
        """What was kept under this name, however long ago."""

    def keep(self, name: str, body: Body) -> None:
        """Something that is no conversation, and does not age; in place of what was there."""

    async def written(self) -> None:
        """Waits until all that was asked for so far is done, or has failed."""


class MemoryStore:
    """Ends with the process."""

    durable = False

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}

    async def found(self) -> Found:
        return Found()

    async def read(self, key: str) -> bytes | None:
        return self._bodies.get(key)

    def write(self, key: str, body: Body) -> None:
        made = body()
        if made is not None:
            self._bodies[key] = made

    def erase(self, key: str) -> None:
        self._bodies.pop(key, None)

    def mark(self, label: str) -> None:
        """Nobody would read it."""

    def unmark(self, label: str) -> None:
        """Nobody would read it."""

    async def page(self, name: str) -> bytes | None:
        return None

    def keep(self, name: str, body: Body) -> None:
        """Nobody would read it."""

    async def written(self) -> None:
        pass


class Cipher(Protocol):
    """What encrypts and authenticates bodies."""

    def encrypt(self, data: bytes) -> bytes: ...

    def decrypt(self, token: bytes) -> bytes:
        """Raises if the token is not of this key."""


class _Plain:
    def encrypt(self, data: bytes) -> bytes:
        return data

    def decrypt(self, token: bytes) -> bytes:
        return token


def opened(configured: config.Store) -> "AbstractAsyncContextManager[Store]":
    """The store that the configuration names, for as long as the block lasts. Raises `ConfigError`
    on entry."""
    if configured.url is None:
        return contextlib.nullcontext(MemoryStore())
    cipher = _cipher(configured.key_file) if configured.key_file else _Plain()
    return sqlite_store(configured.path, cipher=cipher, max_age_s=configured.max_age_s)


@contextlib.asynccontextmanager
async def sqlite_store(
    path: Path,
    *,
    cipher: Cipher | None = None,
    max_age_s: float = 3600.0,
    wall: Callable[[], float] = time.time,
    kind: "type[SqliteStore] | None" = None,
) -> "AsyncIterator[SqliteStore]":
    """A file that is ours alone while the block lasts; all that was asked for is in it then."""
    store = (kind or SqliteStore)(path, cipher or _Plain(), max_age_s, wall)
    await store._in_lane(store._open)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store._run)
            yield store
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await store._flush()
            await store._in_lane(store._close)


class SqliteStore:
    """Made by `sqlite_store`. Keys and labels are in the file as digests only: they are what a
    client shows to be let in."""

    durable = True

    def __init__(
        self, path: Path, cipher: Cipher, max_age_s: float, wall: Callable[[], float]
    ) -> None:
        self._path = path
        self._cipher = cipher
        self._max_age_s = max_age_s
        self._wall = wall
        self._lane = trio.CapacityLimiter(1)
        self._bodies: dict[str, Body | None] = {}  # not yet written; None: to be erased
        self._marks: dict[str, bool] = {}  # not yet written; False: to be erased
        self._pages: dict[str, Body] = {}  # not yet written
        self._asked = 0
        self._done: AsyncValue[int] = AsyncValue(0)
        self._work = trio.Event()

    async def found(self) -> Found:
        return await self._in_lane(self._find)

    async def read(self, key: str) -> bytes | None:
        name = _digest(key)
        if name in self._bodies:
            body = self._bodies[name]
            return body() if body else None
        return await self._in_lane(functools.partial(self._select, name))

    def write(self, key: str, body: Body) -> None:
        self._bodies[_digest(key)] = body
        self._wake()

    def erase(self, key: str) -> None:
        self._bodies[_digest(key)] = None
        self._wake()

    def mark(self, label: str) -> None:
        self._marks[label] = True
        self._wake()

    def unmark(self, label: str) -> None:
        self._marks[label] = False
        self._wake()

    async def page(self, name: str) -> bytes | None:
        if body := self._pages.get(name):
            return body()
        return await self._in_lane(functools.partial(self._select_page, name))

    def keep(self, name: str, body: Body) -> None:
        self._pages[name] = body
        self._wake()

    async def written(self) -> None:
        asked = self._asked
        await self._done.wait_value(lambda done: done >= asked)

    # -- the writer -------------------------------------------------------------------------------

    def _wake(self) -> None:
        self._asked += 1
        self._work.set()

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            self._work = trio.Event()
            await self._flush()

    async def _flush(self) -> None:
        if not self._bodies and not self._marks and not self._pages:
            return
        asked = self._asked
        bodies, self._bodies = self._bodies, {}
        marks, self._marks = self._marks, {}
        pages, self._pages = self._pages, {}
        made = {name: body() for name, body in bodies.items() if body is not None}
        kept = {name: body for name, body in made.items() if body is not None}
        gone = [name for name, body in bodies.items() if body is None]
        turned = {name: body() for name, body in pages.items()}
        kept_pages = {name: body for name, body in turned.items() if body is not None}
        try:
            with trio.CancelScope(shield=True):  # what was taken is written
                work = functools.partial(self._write_all, kept, gone, marks, kept_pages)
                await self._in_lane(work)
        except sqlite3.Error as error:
            # The conversations go on; only a crash would now cost more than it should.
            log.error("store failed", reason=str(error))
        self._done.value = asked

    async def _in_lane(self, work: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(work, limiter=self._lane)

    # -- in the thread ----------------------------------------------------------------------------

    def _open(self) -> None:
        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.fchmod(handle, 0o600)
            os.close(handle)
            self._file = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            # Exclusive: two relays would hand out each other's conversations.
            self._file.executescript(
                "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;"
                "PRAGMA synchronous=NORMAL; PRAGMA secure_delete=ON;"
                "CREATE TABLE IF NOT EXISTS conversations"
                " (key TEXT PRIMARY KEY, saved REAL NOT NULL, body BLOB NOT NULL);"
                "CREATE TABLE IF NOT EXISTS marks (label TEXT PRIMARY KEY, saved REAL NOT NULL);"
                "CREATE TABLE IF NOT EXISTS pages (name TEXT PRIMARY KEY, body BLOB NOT NULL);"
                "BEGIN IMMEDIATE; COMMIT;"
            )
        except (OSError, sqlite3.Error) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise ConfigError(f"store.url: cannot use {self._path}: {reason}") from None

    def _find(self) -> Found:
        now = self._wall()
        self._file.execute("BEGIN IMMEDIATE")
        self._file.execute("DELETE FROM conversations WHERE saved < ?", (now - self._max_age_s,))
        self._file.execute("DELETE FROM marks WHERE saved < ?", (now - LABELS_KEPT_S,))
        self._file.execute("COMMIT")
        rows = self._file.execute("SELECT body FROM conversations ORDER BY saved")
        bodies = [self._readable(body) for (body,) in rows]
        marks = [label for (label,) in self._file.execute("SELECT label FROM marks ORDER BY saved")]
        return Found(bodies, marks)

    def _select(self, name: str) -> bytes | None:
        row = self._file.execute("SELECT body FROM conversations WHERE key = ?", (name,)).fetchone()
        return None if row is None else self._readable(row[0])

    def _select_page(self, name: str) -> bytes | None:
        row = self._file.execute("SELECT body FROM pages WHERE name = ?", (name,)).fetchone()
        return None if row is None else self._readable(row[0])

    def _readable(self, body: bytes) -> bytes:
        try:
            return self._cipher.decrypt(body)
        except Exception:
            raise ConfigError(
                f"store.key_file: not the key of what is in {self._path}; with the right key it "
                "can be read, without that file the store begins anew"
            ) from None

    def _write_all(
        self,
        bodies: dict[str, bytes],
        erased: list[str],
        marks: dict[str, bool],
        pages: dict[str, bytes],
    ) -> None:
        now = self._wall()
        kept = [(name, now, self._cipher.encrypt(body)) for name, body in bodies.items()]
        gone = [(name,) for name in erased]
        marked = [(label, now) for label, is_marked in marks.items() if is_marked]
        shut = [(name, self._cipher.encrypt(body)) for name, body in pages.items()]
        unmarked = [(label,) for label, is_marked in marks.items() if not is_marked]
        self._file.execute("BEGIN IMMEDIATE")
        try:
            self._many("INSERT OR REPLACE INTO conversations VALUES (?, ?, ?)", kept)
            self._many("DELETE FROM conversations WHERE key = ?", gone)
            self._many("INSERT OR REPLACE INTO marks VALUES (?, ?)", marked)
            self._many("DELETE FROM marks WHERE label = ?", unmarked)
            self._many("INSERT OR REPLACE INTO pages VALUES (?, ?)", shut)
            self._file.execute("COMMIT")
        except sqlite3.Error:
            self._file.execute("ROLLBACK")
            raise
        if gone:  # what was erased is not in the log of changes either
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _many(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        self._file.executemany(statement, rows)

    def _close(self) -> None:
        self._file.close()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def _cipher(key_file: Path) -> Cipher:
    """Raises `ConfigError`, which never quotes the file."""
    from cryptography.fernet import Fernet, MultiFernet  # an extra; `config` has looked for it

    lines = config.read_text(key_file, "store.key_file").split()
    try:
        # The first encrypts, all decrypt: so a key can be replaced.
        return MultiFernet([Fernet(line) for line in lines])
    except ValueError:
        raise ConfigError(
            f"store.key_file: {key_file} holds no Fernet key; make one with: python -c "
            '"from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'
        ) from None
