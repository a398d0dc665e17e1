"""findings: what turned up while Settings were read, beside their result. It knows no field."""

import msgspec

from relay import voice_agent


class Unusable(Exception):
    """A value that ends the reading. The text starts with the value's path and holds neither
    credentials nor prose of the client's. Never leaves `relay.settings`: `plan` and `change` turn
    it into a `Refusal`."""

    def __init__(self, path: str, reason: str, code: str = "INVALID_SETTINGS") -> None:
        super().__init__(f"{path}: {reason}")
        self.code = code


class Findings(msgspec.Struct):
    """Filled by the parts while they read."""

    root: str
    """What stands before the parts' paths: `agent.` in Settings, nothing in updates."""
    warnings: list[voice_agent.Warning] = []
    """For the client, after SettingsApplied (C-210)."""
    ignored: list[str] = []
    """Paths without effect, for one log line. Never values."""

    def unusable(self, path: str, reason: str) -> Unusable:
        return Unusable(self.root + path, reason)

    def warn(self, code: str, path: str, description: str) -> None:
        self.warnings.append(voice_agent.Warning(f"{self.root}{path}: {description}", code))

    def ignore(self, path: str, value: object) -> None:
        """Note that `path` has no effect, if the client sent it at all."""
        if value is not None and value != [] and self.root + path not in self.ignored:
            self.ignored.append(self.root + path)
