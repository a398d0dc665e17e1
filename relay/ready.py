"""ready: the file that tells a waiting script where to connect."""

import os
from collections.abc import Iterable
from pathlib import Path

from relay.config import ConfigError


def write_ready_file(file: Path, urls: Iterable[str]) -> None:
    """One URL a line. Whoever waits for the file never reads half of it. Raises `ConfigError`."""
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        draft.write_text("".join(f"{url}\n" for url in urls), encoding="utf-8")
        draft.replace(file)
    except OSError as error:
        raise ConfigError(f"--ready-file: cannot write {file}: {error.strerror}") from None
