"""playback: how much of the agent's audio the person at the other end has heard.

It knows what was posted to the client and when, and estimates from that what has come out of the
loudspeaker. It does not know bytes or formats (everything is milliseconds of audio in the
upstream's format), has no clock (`now` is an argument, in seconds, and never goes back), and
encodes to MessagePack like all session state.

The estimate: the client plays what it gets, at once, in order, without a pause, each chunk at the
later of its arrival and the end of what came before. On that timeline each audio item has a place
of its own, also across responses (C-155), so nothing is truncated beyond its own length, which the
API answers with an error and in one report with silence from then on (L-44); and what nobody heard
does not stay in the model's memory of the conversation (L-45).
"""

import math
from collections.abc import Mapping

import msgspec

KEPT_STRETCHES = 64
"""How many stretches are remembered once played out. A conversation asks about the items of the
last response or two; older ones would only grow the snapshot."""

_DUST_MS = 1e-6
"""Less than a thousandth of a microsecond is a rounding error of the clock, not audio."""


class Item(msgspec.Struct, frozen=True):
    """What a `conversation.item.truncate` must name."""

    item: str
    leg: int
    content_index: int


class Stretch(msgspec.Struct):
    """Audio of one item, without a break on the play timeline: [start, start + ms / 1000)."""

    of: Item
    start: float
    ms: float

    @property
    def end(self) -> float:
        return self.start + self.ms / 1000

    def heard_ms(self, now: float) -> float:
        return min(max((now - self.start) * 1000, 0.0), self.ms)


class Playback(msgspec.Struct):
    """The play timeline of one client.

    Items are named by id. An id that comes again on a later leg (some servers number their items
    from one in each session) is a new item. An item not known, or long over, was not heard: 0.
    """

    timeline: list[Stretch] = []
    """Oldest first; one stretch for each item, several only if items alternate."""

    @property
    def play_end(self) -> float:
        """When the last sample will have been played; -inf if there is none."""
        return self.timeline[-1].end if self.timeline else -math.inf

    def finished(self, now: float) -> bool:
        return now >= self.play_end

    def sent(
        self, item: str, ms: float, now: float, *, leg: int = 0, content_index: int = 0
    ) -> None:
        """`ms` more of this item were posted to the client; more than 0."""
        of = Item(item, leg, content_index)
        begin = max(self.play_end, now)
        if self.timeline and self.timeline[-1].of == of:
            last = self.timeline[-1]
            # If the client ran dry (begin > end), all so far was heard by now, so it may as well
            # have been played later and without the gap. That keeps one stretch for one item.
            last.start = max(last.start, begin - last.ms / 1000)
            last.ms += ms
        else:
            self.timeline.append(Stretch(of, begin, ms))
        self._forget(now)

    def dropped(self, ms: float) -> None:
        """The newest `ms` of what was posted were taken out of the outbox before they were written.

        They come off the newest items and off `play_end`, even where the estimate thought that
        they had been played already: a stalled client has heard less than the clock says.
        """
        while ms > _DUST_MS and self.timeline:
            last = self.timeline[-1]
            taken = min(ms, last.ms)
            last.ms -= taken
            ms -= taken
            if last.ms <= _DUST_MS:
                self.timeline.pop()

    def unheard(self, now: float, unwritten_ms: float = 0.0) -> list[Item]:
        """The items whose play interval ends after `now`, or whose newest audio is among the
        `unwritten_ms` that never left the outbox; oldest first (C-151, C-152)."""
        written = sum(stretch.ms for stretch in self.timeline) - unwritten_ms
        found: dict[Item, None] = {}
        for stretch in self.timeline:
            written -= stretch.ms
            if stretch.end > now or written < -_DUST_MS:
                found[stretch.of] = None
        return list(found)

    def cut(self, now: float) -> None:
        """Barge-in: the client throws away what it has not played, and the rest is silence.

        What was heard of each item stays as it is from here on; ask `unheard` before.
        """
        for stretch in self.timeline:
            stretch.ms = stretch.heard_ms(now)
        self.timeline = [stretch for stretch in self.timeline if stretch.ms > _DUST_MS]

    def renamed(self, names: Mapping[str, str]) -> None:
        """These items are called otherwise from here on."""
        for stretch in self.timeline:
            of = stretch.of
            stretch.of = msgspec.structs.replace(of, item=names.get(of.item, of.item))

    def sent_ms(self, item: str) -> float:
        """What was posted of this item, minus what was dropped or cut."""
        return sum(stretch.ms for stretch in self._of(item))

    def heard_ms(self, item: str, now: float) -> float:
        return sum(stretch.heard_ms(now) for stretch in self._of(item))

    def audio_end_ms(self, item: str, now: float, margin_ms: float = 0) -> int:
        """Where to truncate: whole milliseconds, 0 <= result <= what was really sent (C-151).

        No more can be sent than was generated, so the smaller of both is what was sent.
        """
        return max(0, math.floor(self.heard_ms(item, now) - margin_ms + _DUST_MS))

    def _of(self, item: str) -> list[Stretch]:
        named = [stretch for stretch in self.timeline if stretch.of.item == item]
        newest = max((stretch.of.leg for stretch in named), default=0)
        return [stretch for stretch in named if stretch.of.leg == newest]

    def _forget(self, now: float) -> None:
        while len(self.timeline) > KEPT_STRETCHES and self.timeline[0].end <= now:
            del self.timeline[0]
