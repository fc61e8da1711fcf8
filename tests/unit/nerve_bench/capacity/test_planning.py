"""Comparison, plans and storms, on made-up records; nothing here depends on how fast a machine is."""

import json
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nerve_bench.capacity.curve import curve_record, estimate, simulated_figures, verdict
from nerve_bench.capacity.plan import (
    Goal,
    StreamBytes,
    plan_records,
    settled_figures,
    stream_bytes,
    streams_per_replica,
)
from nerve_bench.capacity.planning import Assumptions, capacity_records
from nerve_bench.capacity.replica import Replica
from nerve_bench.capacity.service import Cadence, ServiceTimes, measured_service
from nerve_bench.capacity.storm import Storm, first_of_a_row, storm_figures, storms_of
from nerve_bench.cli import main as cli
from nerve_runtime.errors import UsageError
from tests.unit.nerve_bench.capacity.records import MEASURED, SERVICES

TIMES = measured_service(SERVICES)


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans and storms from a few draws: not to be believed, and quick."""
    monkeypatch.setattr("nerve_bench.capacity.plan.SEEDS", range(2))
    monkeypatch.setattr("nerve_bench.capacity.storm.SEEDS", range(3))


def unseen(items: Iterable[Any], _description: str, total: float | None = None) -> Iterable[Any]:
    return items


def measured_by(times: ServiceTimes, load: float) -> dict[str, Any]:
    """What a node with these service times would have measured at a load."""
    cameras = round(load * times.capacity_fps / 10)
    asked = {**MEASURED, "load": load, "cameras": cameras, "fps": load * times.capacity_fps / cameras}
    found = simulated_figures(asked, times)
    share = found["keyframe_percent"] / 100
    service_ms = 1000 * (share * times.keyframe_s.mean() + (1 - share) * times.follow_s.mean())
    return {**asked, **found, "service_ms": service_ms}


@pytest.mark.parametrize("load", [0.6, 1.2])
def test_a_node_that_is_as_its_service_times_say_is_reproduced(load: float) -> None:
    record = curve_record(measured_by(TIMES, load), TIMES)
    assert (record["holds"], record["own_holds"], record["service_ratio"]) == (
        "yes",
        "yes",
        pytest.approx(1.0, abs=0.01),
    )


def test_a_node_that_is_half_as_fast_under_load_is_not_and_the_record_says_why() -> None:
    slow = replace(TIMES, keyframe_s=2 * TIMES.keyframe_s, follow_s=2 * TIMES.follow_s)
    record = curve_record({**measured_by(slow, 0.4), "load": 0.4}, TIMES)
    assert record["holds"].startswith("no: p50 x 0.")
    assert record["service_ratio"] == pytest.approx(2.0, abs=0.02)
    assert record["own_holds"] == "yes"


def test_the_tolerance_is_25_percent_below_high_load_and_3_points_above() -> None:
    record = {
        "load": 0.8,
        "p50_ratio": 1.24,
        "p99_ratio": 0.76,
        "simulated_dropped_percent": 9,
        "measured_dropped_percent": 0,
    }
    assert verdict(record) == "yes"
    assert verdict({**record, "p99_ratio": 0.74}) == "no: p99 x 0.74"
    assert verdict({**record, "load": 0.9}) == "no: drops +9.0 points"
    assert verdict({**record, "load": 0.9, "simulated_dropped_percent": 3, "p99_ratio": 9.0}) == "yes"


def test_there_is_no_estimate_of_latency_without_capacity_left() -> None:
    assert estimate(1.2, TIMES)["estimate_p99_ms"] is None
    assert estimate(1.25, TIMES)["fluid_dropped_percent"] == pytest.approx(20.0)
    assert estimate(0.5, TIMES)["fluid_dropped_percent"] == 0


def test_a_replica_gets_the_most_streams_that_meet_the_goal() -> None:
    goal = Goal(fps=10, p99_ms=120.0, dropped_percent=1.0, utilisation=1.0)
    most, limit = streams_per_replica(Replica(TIMES), goal)
    figures = settled_figures(Replica(TIMES), most, 10)
    assert figures["p99_ms"] <= 120.0
    assert figures["dropped_percent"] <= 1.0
    assert limit in ("p99", "drops")
    more = settled_figures(Replica(TIMES), most + 1, 10)
    assert more["p99_ms"] > 120.0 or more["dropped_percent"] > 1.0


def test_utilisation_caps_the_streams_of_a_replica() -> None:
    most, limit = streams_per_replica(Replica(TIMES), Goal(fps=10, p99_ms=1e6, dropped_percent=100, utilisation=0.4))
    assert limit == "utilisation"
    assert most == math.floor(0.4 * TIMES.capacity_fps / 10)
    assert settled_figures(Replica(TIMES), most, 10)["busy_percent"] < 45


def test_a_goal_that_no_replica_meets_is_refused() -> None:
    with pytest.raises(UsageError, match="no replica can serve one stream of 10 fps within p99 5 ms"):
        streams_per_replica(Replica(TIMES), Goal(p99_ms=5))
    with pytest.raises(UsageError, match=r"a replica does 80\.0 frames a second; ask for less"):
        streams_per_replica(Replica(TIMES), Goal(fps=100))


def test_a_plan_has_room_for_all_streams_when_its_spare_replicas_die() -> None:
    weights = StreamBytes(encoded=4000, raw=None, working=50_000, labels_png=2000, state=17e6)
    goal = Goal(price_per_hour=0.5)
    small, large = plan_records(Replica(TIMES), goal, [10, 10_000], weights)
    assert (small["spare"], large["spare"]) == (1, math.ceil(0.01 * large["needed"]))
    for plan in (small, large):
        assert plan["needed"] * plan["streams_per_replica"] >= plan["streams"]
        assert plan["failed_streams"] <= plan["streams_per_replica"]
        assert plan["failed_p99_ms"] <= goal.p99_ms
        assert plan["replicas"] == plan["needed"] + plan["spare"]
        assert plan["price_a_day"] == plan["replicas"] * 12
        assert plan["estimate_shared_wait_ms"] <= plan["estimate_wait_ms"]
    assert small["in_encoded_mbit"] == pytest.approx(10 * 10 * 4000 * 8 / 1e6)
    assert small["in_raw_mbit"] is None
    assert small["state_mb_per_replica"] == 17.0 * small["failed_streams"]


def test_what_is_given_takes_the_place_of_what_was_measured() -> None:
    measured = stream_bytes(SERVICES, 10, None, None, None)
    assert measured == StreamBytes(4000, 200_000, 50_000, 2000, 17_000_000)
    given = stream_bytes(SERVICES, 10, 4.0, (720, 1280), 42)
    assert given == StreamBytes(50_000, 720 * 1280 * 3, 50_000, None, 42e6)
    assert stream_bytes(SERVICES, 10, None, (720, 1280), None).encoded is None


def test_storms_leave_no_stream_out() -> None:
    for streams, replicas in ((10, 3), (1000, 210), (3, 1)):
        for storm in storms_of(streams, replicas):
            assert storm.moved >= 1
            assert storm.staying in (0, math.ceil(streams / replicas))
    among, _, _, half = storms_of(12, 4)
    assert (among.staying, among.moved, half.moved) == (3, 1, 3)


def test_streams_that_come_at_once_are_late_and_stay_in_step_unless_spread() -> None:
    # Nothing but the count makes keyframes here, and only drops bring them out of step.
    times = ServiceTimes(np.array([0.060]), np.array([0.006]), Cadence(every=10))
    together = storm_figures(Replica(times), Storm("", 0, 6), 10)
    spread = storm_figures(Replica(times), Storm("", 0, 6, staggered=True), 10)
    assert together["first_dropped_percent"] > 10 + together["settled_dropped_percent"]
    assert together["back_s"] is None or together["back_s"] >= 20
    assert spread["back_s"] is not None
    assert spread["back_s"] <= 5


def test_latencies_are_back_from_the_first_of_five_good_seconds() -> None:
    assert first_of_a_row([True] * 5) == 0
    assert first_of_a_row([False, *[True] * 4, False, *[True] * 6, False]) == 6
    assert first_of_a_row([True, True, True, True, False] * 4) is None


@pytest.mark.usefixtures("few_draws")
def test_nothing_is_compared_where_service_is_assumed() -> None:
    given = Assumptions(service_ms="keyframe=4,follow=1")
    found = list(capacity_records([*SERVICES, MEASURED], [10], Goal(), given, unseen))
    assert {record["bench"] for record in found} == {"capacity_assumptions", "capacity_plan", "capacity_storm"}
    assert found[0]["value"].startswith("ASSUMED by --service-ms")
    assert [record["service"] for record in found if record["bench"] == "capacity_plan"] == ["assumed"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Assumptions(policy="lifo"), "--policy is 'lifo', expected newest or fifo"),
        (Assumptions(batch=4), "--batch is 4, but records of nerve-bench batch go up to 1; run: nerve-bench batch"),
    ],
)
def test_an_assumption_that_makes_no_sense_is_refused(given: Assumptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        list(capacity_records([*SERVICES, MEASURED], [10], Goal(), given, unseen))


def run(*words: object) -> Any:
    return CliRunner().invoke(cli.app, ["capacity", *map(str, words)])


@pytest.mark.usefixtures("few_draws")
def test_the_command_prints_records_and_draws(tmp_path: Path) -> None:
    lines = [*SERVICES, MEASURED, {**MEASURED, "load": 1.2, "policy": "fifo", "bound": 8, "cameras": 10}]
    (tmp_path / "load.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    words = ("--from", tmp_path, "--streams", "10", "--plot", tmp_path / "plot.png", "--json")
    ended = run(*words)
    assert ended.exit_code == 0, ended.output
    records = [json.loads(line) for line in ended.stdout.splitlines()]
    counts = {kind: sum(record["bench"] == kind for record in records) for kind in ("capacity_curve", "capacity_plan")}
    assert counts == {"capacity_curve": 2, "capacity_plan": 1}
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert run(*words).stdout == ended.stdout, "the same records give the same plans"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target-drop", "1 in 100"), "--target-drop is '1 in 100', expected a percentage such as 1%"),
        (("--streams", "ten"), "--streams is 'ten', expected numbers"),
        (("--streams", "0"), "--streams are 0, expected one or more above 0"),
        ((), "there are no records of service times; run: nerve-bench load --json"),
    ],
)
def test_the_command_refuses_in_one_line(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    ended = run("--from", tmp_path / "none", *words)
    assert isinstance(ended.exception, UsageError)
    assert message in str(ended.exception)
