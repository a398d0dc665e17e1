"""metrics: what is counted, under which names, and the text in which Prometheus reads it.

It knows counters, gauges and histograms and has no clock, no sockets and no conversation: whoever
sees something (`relay.observer`) counts it here. Names keep to Prometheus's conventions, base units
and `_total` for what only rises. A label's values are few and ours, never a client's words; a
mistake there must not cost the memory, so what is beyond `MOST_SAMPLES` is `other`.

    Metrics     the instruments of one process
    Snapshot    their values at one moment; plain, so that it can be sent to another process
    merged      the snapshots of several processes as one
    exposition  a snapshot in the text format 0.0.4
"""

import math
from collections.abc import Iterable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
MOST_SAMPLES: Final = 256
"""Of one family, in one process."""
OTHER: Final = "other"

LATENCIES: Final = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)
"""Seconds: around 300 ms a pause begins to be felt, beyond 2 s people ask whether you are there."""
LAGS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Seconds: 20 ms of audio come every 20 ms."""
DURATIONS: Final = (1.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0)


class Family(msgspec.Struct, frozen=True):
    """What all samples of one name have in common."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    """Their names; a sample has a value for each."""
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram; the last bucket, without one, is not listed."""
    over_processes: Literal["sum", "max", "min"] = "sum"
    """What one gauge of several processes is."""


class Sample(msgspec.Struct):
    """A value and the values of its labels."""

    labels: tuple[str, ...]
    value: float = 0.0
    """Of a histogram: the sum of what was observed."""
    counts: list[int] = []
    """Of a histogram: how many fell into each bucket, the one without a bound included."""


class Series(msgspec.Struct):
    """A family with its samples."""

    family: Family
    samples: list[Sample]


Snapshot: TypeAlias = list[Series]


class Instrument:
    """The samples of one family."""

    def __init__(self, family: Family, known: Iterable[tuple[str, ...]] = ()) -> None:
        """`known`: samples that are there from the start, because a counter that appears with its
        first event hides that event from `rate()`."""
        self.family = family
        self._samples: dict[tuple[str, ...], Sample] = {}
        for labels in known:
            self._sample(labels)

    def series(self) -> Series:
        return Series(self.family, [msgspec.structs.replace(s) for s in self._samples.values()])

    def _sample(self, labels: tuple[str, ...]) -> Sample:
        sample = self._samples.get(labels)
        if sample is None:
            if len(labels) != len(self.family.labels):
                raise ValueError(f"{self.family.name} has the labels {self.family.labels}")
            if len(self._samples) >= MOST_SAMPLES:
                labels = (OTHER,) * len(labels)
            counts = [0] * (len(self.family.buckets) + 1) if self.family.buckets else []
            sample = self._samples.setdefault(labels, Sample(labels, counts=counts))
        return sample


class Counter(Instrument):
    """Only rises."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: tuple[str, ...] = (),
        known: Iterable[tuple[str, ...]] = (),
    ) -> None:
        super().__init__(Family(name, "counter", about, labels), known if labels else [()])

    def add(self, amount: float, *labels: str) -> None:
        self._sample(labels).value += amount

    def reach(self, total: float, *labels: str) -> None:
        """For what somebody else counts."""
        self._sample(labels).value = total


class Gauge(Instrument):
    """Is set to what it is at the moment of a snapshot."""

    def __init__(
        self,
        name: str,
        about: str,
        labels: tuple[str, ...] = (),
        over_processes: Literal["sum", "max", "min"] = "sum",
    ) -> None:
        super().__init__(Family(name, "gauge", about, labels, over_processes=over_processes))

    def put(self, value: float, *labels: str) -> None:
        self._sample(labels).value = value


class Histogram(Instrument):
    """How often a value was how big."""

    def __init__(
        self,
        name: str,
        about: str,
        buckets: tuple[float, ...],
        labels: tuple[str, ...] = (),
        known: Iterable[tuple[str, ...]] = (),
    ) -> None:
        family = Family(name, "histogram", about, labels, buckets)
        super().__init__(family, known if labels else [()])

    def series(self) -> Series:
        copies = [
            msgspec.structs.replace(sample, counts=list(sample.counts))
            for sample in self._samples.values()
        ]
        return Series(self.family, copies)

    def observe(self, value: float, *labels: str) -> None:
        sample = self._sample(labels)
        sample.value += value
        bounds = self.family.buckets
        at = next((i for i, bound in enumerate(bounds) if value <= bound), len(bounds))
        sample.counts[at] += 1


_WAYS = tuple((side, way) for side in ("client", "upstream") for way in ("in", "out"))
ENDS: Final = (
    "client_closed",
    "client_lost",
    "client_refused",
    "finished",
    "superseded",
    "going_away",
    "error",
    "cut_off",
)
"""How sessions end: the client said so; it vanished; it broke the WebSocket protocol; we said so
with close code 1000; another connection took the conversation over; the daemon stops; we said so
because something failed; nobody said anything, because the daemon was stopped at once."""


ERRORS: Final = (
    "INTERNAL_SERVER_ERROR",
    "CLIENT_MESSAGE_TIMEOUT",
    "UNPARSABLE_CLIENT_MESSAGE",
    "NON_SETTINGS_MESSAGE_BEFORE_SETTINGS",
    "SETTINGS_ALREADY_APPLIED",
    "INVALID_SETTINGS",
    "FAILED_TO_START_LISTENING",
    "ASR_CONNECTION_CLOSED",
    "ASR_DRIVER_TIMEOUT",
    "USER_AUDIO_FORMAT",
    "FAILED_TO_SPEAK",
    "FAILED_TO_THINK",
    "SERVER_GOING_AWAY",
    "NON_EXISTENT_FUNCTION_CALLED",
    "AGENT_ID_NOT_SUPPORTED",
    "INVALID_AGENT_ID",
    "MAXIMUM_SESSION_LENGTH_REACHED",
    "upstream_closed_before_session_ready",
    "session_max_duration",
    "idle_timeout",
)
"""The protocol's codes of Errors and of..."""
WARNINGS: Final = (
    "INJECT_AGENT_MESSAGE_DURING_USER_SPEECH",
    "INJECT_AGENT_MESSAGE_DURING_AGENT_SPEECH",
    "PROMPT_TOO_LONG",
    "THINK_REQUEST_FAILED",
    "SPEAK_REQUEST_FAILED",
    "FUNCTION_CALL_FAILED",
    "SLOW_THINK_REQUEST",
    "SLOW_SPEAK_REQUEST",
    "FORCE_END_TURN_UNSUPPORTED",
    "MAXIMUM_SESSION_LENGTH_APPROACHING",
    "VOICE_PROMPT_ADDED",
    "UNPARSABLE_CLIENT_MESSAGE",
)
"""...Warnings. Where the component is told an upstream's own word instead, that is `other`."""


class Metrics:
    """The instruments of one process; each says what it is of."""

    def __init__(self) -> None:
        # Coming in.
        self.connections = Counter(
            "relay_connections_total", "TCP connections accepted, whatever they asked for."
        )
        self.open_connections = Gauge(
            "relay_open_connections", "TCP connections that are open, sessions included."
        )
        self.admissions = Counter(
            "relay_admissions_total",
            "Upgrade requests, by the HTTP status of the answer (101: admitted) and its reason.",
            ("status", "reason"),
            [("101", "admitted")],
        )
        self.limits_refused = Counter(
            "relay_limit_refusals_total", "Sessions not begun, by the limit in the way.", ("limit",)
        )
        self.limits_ended = Counter(
            "relay_limit_ends_total", "Sessions ended by a limit that they reached.", ("limit",)
        )
        # Sessions.
        self.sessions = Gauge("relay_sessions", "Sessions that are going on.")
        self.sessions_ended = Counter(
            "relay_sessions_ended_total",
            "Sessions that have ended, by how.",
            ("end",),
            [(end,) for end in ENDS],
        )
        self.session_duration = Histogram(
            "relay_session_duration_seconds", "Of sessions that have ended.", DURATIONS
        )
        self.parked = Gauge(
            "relay_parked_conversations", "Conversations that wait for their client."
        )
        self.resumes = Counter(
            "relay_resumes_total",
            "Conversations that a client came back to, by where they were.",
            ("where",),
            [("parked",), ("connected",)],
        )
        # Traffic.
        self.frames = Counter(
            "relay_frames_total",
            "WebSocket messages, by whom they were exchanged with.",
            ("side", "direction"),
            _WAYS,
        )
        self.bytes = Counter(
            "relay_bytes_total",
            "Bytes on the wire, framing included, by whom they were exchanged with.",
            ("side", "direction"),
            _WAYS,
        )
        self.messages = Counter(
            "relay_client_messages_total",
            "Messages from (in) and to (out) clients, without audio, by type.",
            ("direction", "type"),
        )
        self.events = Counter(
            "relay_upstream_events_total",
            "Events from (in) and to (out) upstreams, without audio, by type.",
            ("direction", "type"),
        )
        self.outbox_frames = Gauge("relay_outbox_frames", "Frames that wait to be sent.", ("side",))
        self.outbox_audio = Gauge(
            "relay_outbox_audio_seconds", "Audio that waits to be sent.", ("side",)
        )
        self.outbox_worst = Gauge(
            "relay_outbox_worst_audio_seconds",
            "Audio that waits to be sent on the connection where most does.",
            ("side",),
            over_processes="max",
        )
        self.shed_audio = Counter(
            "relay_shed_audio_seconds_total",
            "Audio dropped because the upstream did not keep up.",
        )
        # What it costs.
        self.audio = Counter(
            "relay_upstream_audio_seconds_total",
            "Audio that upstreams were sent (in) and said (out).",
            ("direction",),
            [("in",), ("out",)],
        )
        self.responses = Counter("relay_upstream_responses_total", "Responses of upstreams.")
        self.tokens = Counter(
            "relay_upstream_tokens_total", "What upstreams count, by model.", ("model", "kind")
        )
        self.transcribed = Counter(
            "relay_upstream_transcribed_seconds_total",
            "Speech transcribed by models that count time, by model.",
            ("model",),
        )
        self.cost = Counter(
            "relay_upstream_cost_total", "What that costs by the table of prices.", ("currency",)
        )
        # How long things take.
        self.dials = Counter(
            "relay_upstream_dials_total",
            "Connections to upstreams, by what became of them; abandoned: not wanted any more.",
            ("outcome",),
            [("opened",), ("refused",), ("unreachable",), ("abandoned",)],
        )
        self.dial = Histogram(
            "relay_upstream_dial_seconds",
            "From the start of a dial to the open WebSocket.",
            LATENCIES,
        )
        self.settings_applied = Histogram(
            "relay_settings_applied_seconds", "From Settings to SettingsApplied.", LATENCIES
        )
        self.transcription = Histogram(
            "relay_transcription_seconds",
            "From the end of a user's turn to its transcript.",
            LATENCIES,
        )
        self.first_token = Histogram(
            "relay_first_token_seconds",
            "From the end of a user's turn to the first output of the model.",
            LATENCIES,
        )
        self.first_audio = Histogram(
            "relay_first_audio_seconds",
            "From the end of a user's turn to the agent's first audio.",
            LATENCIES,
        )
        self.function_round = Histogram(
            "relay_function_round_seconds",
            "From the first call of a round to the result of its last.",
            LATENCIES,
        )
        self.function_calls = Counter(
            "relay_function_calls_total",
            "Function calls, by who makes them and what became of them.",
            ("by", "outcome"),
            [(by, end) for by in ("client", "relay") for end in ("answered", "cancelled")],
        )
        # What happens in conversations.
        self.barge_ins = Counter(
            "relay_barge_ins_total", "How often a user spoke while the agent did."
        )
        self.losses = Counter(
            "relay_upstream_losses_total",
            "Upstreams lost in the middle of a conversation, by how.",
            ("how",),
            [("closed",), ("lost",)],
        )
        self.switches = Counter(
            "relay_upstream_switches_total",
            "Conversations that went on with another upstream connection, by why.",
            ("why",),
            [("planned",), ("loss",), ("resume",)],
        )
        self.errors = Counter(
            "relay_errors_total",
            "Errors that clients were told, by code.",
            ("code",),
            [(code,) for code in (*ERRORS, OTHER)],
        )
        self.warnings = Counter(
            "relay_warnings_total",
            "Warnings that clients were told, by code.",
            ("code",),
            [(code,) for code in (*WARNINGS, OTHER)],
        )
        self.notes = Counter(
            "relay_notes_total", "Other things worth a log line, by event.", ("event",)
        )
        self.failures = Counter(
            "relay_failures_total", "Mistakes of the relay's; each is a traceback in the log."
        )
        # The loop and the process.
        self.lag = Histogram(
            "relay_loop_lag_seconds", "How late the event loop was, four times a second.", LAGS
        )
        self.lag_mean = Gauge(
            "relay_loop_lag_mean_seconds",
            "How late the event loop is, mean of the last two seconds.",
            over_processes="max",
        )
        self.draining = Gauge(
            "relay_draining", "1 while no new sessions are admitted.", over_processes="max"
        )
        self.reloads = Counter(
            "relay_reloads_total",
            "How often the configuration was read again, by what came of it.",
            ("outcome",),
            [("done",), ("refused",)],
        )
        self.reload_refused = Gauge(
            "relay_reload_refused",
            "1 while what is on disk was refused, and what was served before goes on.",
            over_processes="max",
        )
        self.handshakes_failed = Counter(
            "relay_handshakes_failed_total", "Clients with which no TLS handshake came about."
        )
        self.processes = Gauge("relay_processes", "Processes that serve.")
        self.info = Gauge(
            "relay_info", "1, for its labels.", ("version", "python"), over_processes="max"
        )
        self.cpu = Counter("process_cpu_seconds_total", "CPU time, of user and system.")
        self.resident = Gauge("process_resident_memory_bytes", "Resident memory.")
        self.descriptors = Gauge("process_open_fds", "Open file descriptors.")
        self.most_descriptors = Gauge("process_max_fds", "File descriptors that may be open.")
        self.started = Gauge(
            "process_start_time_seconds",
            "When the process was started, since 1970.",
            over_processes="min",
        )

    def __iter__(self) -> Iterator[Instrument]:
        yield from vars(self).values()

    def snapshot(self) -> Snapshot:
        """All values as they are now; nothing of it changes later."""
        return [instrument.series() for instrument in self]


def merged(snapshots: Iterable[Snapshot]) -> Snapshot:
    """One snapshot of several processes: counters and histograms are sums, gauges what their family
    says."""
    families: dict[str, Series] = {}
    for series in (each for snapshot in snapshots for each in snapshot):
        family = series.family
        into = families.setdefault(family.name, Series(family, []))
        found = {sample.labels: sample for sample in into.samples}
        for sample in series.samples:
            if (other := found.get(sample.labels)) is None:
                into.samples.append(msgspec.structs.replace(sample, counts=list(sample.counts)))
                continue
            other.counts = [a + b for a, b in zip(other.counts, sample.counts, strict=True)]
            match family.over_processes:
                case "sum":
                    other.value += sample.value
                case "max":
                    other.value = max(other.value, sample.value)
                case "min":
                    other.value = min(other.value, sample.value)
    return list(families.values())


def lasting(snapshot: Snapshot) -> Snapshot:
    """What is still true of a process that is no more: what it has counted."""
    return [series for series in snapshot if series.family.kind != "gauge"]


def exposition(snapshot: Snapshot) -> str:
    """The text format of Prometheus, version 0.0.4."""
    return "".join(f"{line}\n" for series in snapshot for line in _lines(series))


def _lines(series: Series) -> Iterator[str]:
    family = series.family
    yield f"# HELP {family.name} {_escaped(family.help)}"
    yield f"# TYPE {family.name} {family.kind}"
    for sample in series.samples:
        labels = list(zip(family.labels, sample.labels, strict=True))
        if family.kind != "histogram":
            yield f"{family.name}{_braced(labels)} {_number(sample.value)}"
            continue
        count = 0
        for bound, more in zip((*family.buckets, math.inf), sample.counts, strict=True):
            count += more
            yield f"{family.name}_bucket{_braced([*labels, ('le', _number(bound))])} {count}"
        yield f"{family.name}_sum{_braced(labels)} {_number(sample.value)}"
        yield f"{family.name}_count{_braced(labels)} {count}"


def _braced(labels: list[tuple[str, str]]) -> str:
    inside = ",".join(f'{name}="{_escaped(value, quoted=True)}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escaped(text: str, *, quoted: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quoted else text


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
