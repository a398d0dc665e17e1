"""docs/monitoring: every figure that alerts and dashboard speak of is one that the relay has.

What Prometheus and Grafana themselves think of the files, scripts/check-monitoring asks them.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from relay.metrics import Family, Metrics

FILES = Path(__file__).parent.parent / "docs" / "monitoring"
INSTRUMENTS = {instrument.family.name: instrument for instrument in Metrics()}
FAMILIES = {name: instrument.family for name, instrument in INSTRUMENTS.items()}
SCRAPED = {"job", "instance"}
"""Labels that Prometheus adds."""
METRIC = re.compile(r"\b((?:relay|process)_[a-z_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"')
WORD = re.compile(r"[a-z_0-9]+")


def family_of(name: str) -> Family | None:
    """Of a metric in a query: of a histogram there are three."""
    if name in FAMILIES:
        return FAMILIES[name] if FAMILIES[name].kind != "histogram" else None
    histogram = FAMILIES.get(re.sub(r"_(bucket|sum|count)$", "", name))
    return histogram if histogram is not None and histogram.kind == "histogram" else None


def faults(query: str) -> list[str]:
    """What the relay does not have of what a query asks for."""
    found = []
    families = []
    for name, inside in METRIC.findall(query):
        family = family_of(name)
        if family is None:
            found.append(f"there is no {name}")
            continue
        families.append(family)
        known = {values for sample in INSTRUMENTS[family.name].series().samples
                 for values in zip(family.labels, sample.labels, strict=True)}  # fmt: skip
        listed = {label for label, _ in known}
        for label, values in MATCHER.findall(inside):
            if label not in {*family.labels, *SCRAPED} and not (
                label == "le" and name.endswith("_bucket")
            ):
                found.append(f"{name} has no label {label}")
            elif label in listed and label not in ("status", "reason"):
                found += [
                    f"{name} has no {label} {value}"
                    for value in WORD.findall(values)
                    if (label, value) not in known
                ]
    labels = {label for family in families for label in family.labels} | SCRAPED | {"le"}
    for grouped in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", query):
        found += [f"nothing has the label {g}" for g in WORD.findall(grouped) if g not in labels]
    return found


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads((FILES / "dashboard.json").read_text())
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: str(panel["title"]))
def test_a_panel_shows_what_there_is_and_says_what_it_is(panel: dict[str, Any]) -> None:
    for target in panel["targets"]:
        assert faults(target["expr"]) == []
        assert 'job="relay",instance=~"$instance"' in target["expr"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]


def test_panels_lie_beside_each_other() -> None:
    dashboard = json.loads((FILES / "dashboard.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not taken & cells, panel["title"]
        assert max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", ["alerts.yml", "alerts-test.yml"])
def test_alerts_and_their_tests_are_about_what_there_is(name: str) -> None:
    text = (FILES / name).read_text()
    found = [fault for line in text.splitlines() for fault in faults(line)
             if "description:" not in line]  # fmt: skip
    assert [fault for fault in found if "nothing has the label alertname" not in fault] == []


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    text = (FILES / "alerts.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    tested = re.findall(r'alertname="(\w+)"', (FILES / "alerts-test.yml").read_text())
    assert sorted(alerts) == sorted(tested)
    for word in ("expr:", "severity:", "summary:", "description:"):
        assert text.count(word) == len(alerts)


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("relay_session > 1", "there is no relay_session"),
        ("rate(relay_first_audio_seconds[5m])", "there is no relay_first_audio_seconds"),
        ('relay_errors_total{kode="x"}', "relay_errors_total has no label kode"),
        ('relay_sessions_ended_total{end="eror"}', "relay_sessions_ended_total has no end eror"),
        ("sum by (code, foo) (relay_errors_total)", "nothing has the label foo"),
        ('relay_errors_total{le="1"}', "relay_errors_total has no label le"),
    ],
)
def test_a_query_for_what_there_is_not_is_seen(query: str, fault: str) -> None:
    assert faults(query) == [fault]
