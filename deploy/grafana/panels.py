"""Grafana's panel and dashboard JSON as small functions, so that dashboards.py reads as a list of questions.

Plain dictionaries in the shape Grafana exports (schema 39, Grafana 10 and later); no library, because the builders that
exist pin a Grafana version each. It must never know what is shown, but for the one metric that lists the models.
"""

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]
SOURCE: Json = {"type": "prometheus", "uid": "prometheus"}
COLUMNS = 24
"""Grafana's grid is 24 units wide; a unit of height is 30 pixels."""

Query = tuple[str, str]
"""A PromQL expression and the legend of its series."""


def lines(
    title: str,
    queries: Sequence[Query],
    unit: str = "short",
    *,
    about: str = "",
    stack: bool = False,
    log: bool = False,
) -> Json:
    """Return a time series panel; `unit` is one of Grafana's, e.g. s, reqps, percentunit, bytes."""
    custom: Json = {
        "lineWidth": 1,
        "fillOpacity": 25 if stack else 5,
        "stacking": {"mode": "normal" if stack else "none"},
    }
    scale: Json = {"min": 0}
    if log:
        custom |= {"fillOpacity": 0, "scaleDistribution": {"type": "log", "log": 10}}
        scale = {}
    return {
        **_panel("timeseries", title, queries, about),
        "fieldConfig": {"defaults": {"unit": unit, **scale, "custom": custom}, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
    }


def number(
    title: str, expr: str, unit: str = "short", *, about: str = "", good: float | None = None, bad: float | None = None
) -> Json:
    """Return a single number, red from `bad` on, or red below `good`."""
    steps: list[Json] = [{"color": "green", "value": None}]
    if bad is not None:
        steps.append({"color": "red", "value": bad})
    if good is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": good}]
    return {
        **_panel("stat", title, [(expr, "")], about),
        "fieldConfig": {
            "defaults": {"unit": unit, "noValue": "none", "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "options": {"colorMode": "value", "graphMode": "area", "reduceOptions": {"calcs": ["lastNotNull"]}},
    }


def heat(title: str, expr: str, unit: str = "short", *, about: str = "") -> Json:
    """Return a heat map of a histogram's buckets over time; `expr` keeps the label `le`."""
    panel = _panel("heatmap", title, [(expr, "{{le}}")], about)
    panel["targets"][0]["format"] = "heatmap"
    return {
        **panel,
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"calculate": False, "yAxis": {"unit": unit}, "color": {"scheme": "Blues"}},
    }


def table(title: str, expr: str, *, about: str = "", hide: Sequence[str] = ()) -> Json:
    """Return what an expression says now, one row a series, its labels as columns."""
    panel = _panel("table", title, [(expr, "")], about)
    panel["targets"][0] |= {"format": "table", "instant": True}
    hidden = dict.fromkeys(("Time", "__name__", "job", *hide), True)
    return {
        **panel,
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {"showHeader": True},
        "transformations": [{"id": "organize", "options": {"excludeByName": hidden}}],
    }


def dashboard(uid: str, title: str, rows: Sequence[tuple[int, Sequence[Json]]]) -> Json:
    """Lay out rows of panels, each (height, panels) and evenly wide, and return the dashboard."""
    panels: list[Json] = []
    top = 0
    for height, row in rows:
        width = COLUMNS // len(row)
        for column, panel in enumerate(row):
            place = {"x": column * width, "y": top, "w": width, "h": height}
            panels.append({"id": len(panels) + 1, **panel, "gridPos": place})
        top += height
    return {
        "uid": uid,
        "title": title,
        "tags": ["sluice"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [{"type": "dashboards", "tags": ["sluice"], "title": "Sluice", "asDropdown": True, "keepTime": True}],
        "templating": {"list": [_model_variable()]},
        "panels": panels,
    }


def _panel(kind: str, title: str, queries: Sequence[Query], about: str) -> Json:
    targets = [
        {"refId": chr(ord("A") + place), "expr": expr, "legendFormat": legend, "datasource": SOURCE}
        for place, (expr, legend) in enumerate(queries)
    ]
    return {"type": kind, "title": title, "description": about, "datasource": SOURCE, "targets": targets}


def _model_variable() -> Json:
    query = "label_values(sluice_model_loaded, model)"
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "model"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
