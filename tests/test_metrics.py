"""Metrics: what is counted, how several processes are one, and the text that Prometheus reads, as
the official client's parser understands it."""

import math
import re

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from relay import metrics
from relay.metrics import MOST_SAMPLES, OTHER, Counter, Gauge, Histogram, Metrics, Snapshot


def parsed(snapshot: Snapshot) -> dict[str, float]:
    """Every sample as Prometheus would take it in, by name and labels."""
    return {
        sample.name + "".join(f" {k}={v}" for k, v in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.exposition(snapshot))
        for sample in family.samples
    }


def test_the_text_is_what_prometheus_reads() -> None:
    hits = Counter("hits_total", 'Hits \\ of\n"all" kinds.', ("kind",))
    hits.add(1, 'a "b" \\ c\nd')
    hits.add(2.5, "x")
    level = Gauge("level", "Level.")
    level.put(-math.inf)
    took = Histogram("took_seconds", "Took.", (0.1, 1.0), ("way",))
    for seconds in (0.1, 0.5, 7):
        took.observe(seconds, "in")
    snapshot = [each.series() for each in (hits, level, took)]
    assert parsed(snapshot) == {
        'hits_total kind=a "b" \\ c\nd': 1.0,
        "hits_total kind=x": 2.5,
        "level": -math.inf,
        "took_seconds_bucket le=0.1 way=in": 1.0,
        "took_seconds_bucket le=1 way=in": 2.0,
        "took_seconds_bucket le=+Inf way=in": 3.0,
        "took_seconds_sum way=in": 7.6,
        "took_seconds_count way=in": 3.0,
    }
    (family, *_) = text_string_to_metric_families(metrics.exposition(snapshot))
    assert (family.type, family.documentation) == ("counter", 'Hits \\ of\n"all" kinds.')


def test_what_has_no_labels_is_there_before_it_happens_and_a_gauge_is_not() -> None:
    snapshot = [
        Counter("a_total", "A.").series(),
        Histogram("b_seconds", "B.", (1.0,)).series(),
        Counter("c_total", "C.", ("x",), [("y",)]).series(),
        Gauge("d", "D.").series(),
    ]
    assert parsed(snapshot) == {
        "a_total": 0,
        "b_seconds_bucket le=1": 0,
        "b_seconds_bucket le=+Inf": 0,
        "b_seconds_sum": 0,
        "b_seconds_count": 0,
        "c_total x=y": 0,
    }


def test_a_label_that_was_a_mistake_costs_no_memory() -> None:
    hits = Counter("hits_total", "Hits.", ("kind", "way"))
    for number in range(3 * MOST_SAMPLES):
        hits.add(1, str(number), "in")
    samples = hits.series().samples
    assert len(samples) == MOST_SAMPLES + 1
    assert samples[-1].labels == (OTHER, OTHER)
    assert sum(sample.value for sample in samples) == 3 * MOST_SAMPLES


def test_labels_are_as_many_as_there_are() -> None:
    with pytest.raises(ValueError, match="hits_total"):
        Counter("hits_total", "Hits.", ("kind",)).add(1)


def test_a_snapshot_stays_as_it_was() -> None:
    counted = Metrics()
    before = counted.snapshot()
    shown = metrics.exposition(before)
    counted.barge_ins.add(1)
    counted.lag.observe(0.1)
    counted.errors.add(1, "FAILED_TO_THINK")
    assert metrics.exposition(before) == shown
    assert metrics.exposition(counted.snapshot()) != shown


def test_the_snapshots_of_processes_travel_and_add_up() -> None:
    one, other = Metrics(), Metrics()
    for counted, amount in ((one, 1.0), (other, 2.0)):
        counted.barge_ins.add(amount)
        counted.errors.add(amount, "FAILED_TO_THINK")
        counted.sessions.put(amount)
        counted.lag_mean.put(amount)
        counted.started.put(amount)
        counted.dial.observe(amount)
    other.errors.add(1, "INVALID_SETTINGS")
    sent = [msgspec.msgpack.encode(each.snapshot()) for each in (one, other)]
    found = parsed(metrics.merged(msgspec.msgpack.decode(each, type=Snapshot) for each in sent))
    assert found["relay_barge_ins_total"] == 3
    assert found["relay_errors_total code=FAILED_TO_THINK"] == 3
    assert found["relay_errors_total code=INVALID_SETTINGS"] == 1
    assert found["relay_sessions"] == 3  # a sum
    assert found["relay_loop_lag_mean_seconds"] == 2  # the worst
    assert found["process_start_time_seconds"] == 1  # the first
    assert found["relay_upstream_dial_seconds_sum"] == 3
    assert found["relay_upstream_dial_seconds_bucket le=1"] == 1
    assert found["relay_upstream_dial_seconds_bucket le=2"] == 2
    assert one.snapshot() == msgspec.msgpack.decode(sent[0], type=Snapshot)


def test_names_keep_to_the_conventions() -> None:
    families = [instrument.family for instrument in Metrics()]
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert re.fullmatch(r"(relay|process)(_[a-z]+)+", family.name), family.name
        assert family.name.endswith("_total") == (family.kind == "counter"), family.name
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent|count|sum)\b", family.name)
        if family.kind == "histogram":
            assert family.name.endswith("_seconds"), family.name
            assert list(family.buckets) == sorted(set(family.buckets)), family.name
        assert family.help.endswith("."), family.name
        assert "le" not in family.labels
