# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of the benchmark with replicas: what limits a rate, and which it is then."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench.capacity import ALL, Machines, Part, predict

CAVERN = Part("cavern", cpu=0.002, most=2)
DATABASE = Part("database", cpu=0.001)


def test_the_cores_of_all_parts_together_are_the_limit_where_each_has_enough() -> None:
    predicted = predict([CAVERN, DATABASE], Machines(1, 2), {})
    assert predicted.limits == pytest.approx({"cavern": 1000, "database": 2000, ALL: 2 / 0.003})
    assert (predicted.rate, predicted.limit) == (pytest.approx(2 / 0.003), ALL)


def test_a_pod_uses_no_more_cores_than_its_processes_and_its_machine_have() -> None:
    one = Part("worker", cpu=0.01, most=1)
    assert predict([one], Machines(1, 8), {}).limits["worker"] == pytest.approx(100)
    wide = Part("cavern", cpu=0.01, most=8)
    assert predict([wide], Machines(4, 2), {}).limits["cavern"] == pytest.approx(200)


def test_pods_add_up_to_the_cores_that_there_are() -> None:
    pods = [Part("cavern", cpu=0.002, pods=count, most=2) for count in (1, 2, 4)]
    rates = [predict([part], Machines(3, 2), {}).limits["cavern"] for part in pods]
    assert rates == pytest.approx([1000, 2000, 3000])


def test_what_a_pod_takes_without_any_operation_is_not_there_for_them() -> None:
    idle = Part("cavern", cpu=0.002, pods=2, most=2, idle=0.25)
    predicted = predict([idle], Machines(1, 2), {})
    assert (predicted.rate, predicted.limits[ALL]) == (pytest.approx(750), pytest.approx(750))


def test_more_machines_leave_what_there_is_one_of() -> None:
    parts = [Part("cavern", cpu=0.002, pods=10, most=2), DATABASE]
    predicted = predict(parts, Machines(10, 2), {"flushes": 0.0001})
    assert (predicted.rate, predicted.limit) == (pytest.approx(2000), "database")
    predicted = predict(parts, Machines(10, 2), {"flushes": 0.001})
    assert (predicted.rate, predicted.limit) == (pytest.approx(1000), "flushes")


def test_what_takes_no_time_limits_nothing() -> None:
    predicted = predict([DATABASE, Part("idle", cpu=0.0)], Machines(1, 2), {"flushes": 0.0})
    assert set(predicted.limits) == {"database", ALL}
    with pytest.raises(ValueError, match="no part"):
        predict([Part("idle", cpu=0.0)], Machines(1, 2), {})


def test_machines_that_are_busy_without_any_operation_do_none() -> None:
    assert predict([Part("cavern", cpu=0.002, pods=4, idle=1)], Machines(1, 2), {}).rate == 0


# docs/measurements.md: milliseconds of a staged file in each part with one replica, and cores that a pod takes anyway.
STAGING = {
    "cavern": (0.997, 0.011),
    "worker": (0.219, 0.014),
    "postgresql": (0.134, 0.008),
    "rse-web": (0.096, 0.0),
    "kubernetes": (0.057, 0.073),
    "core": (0.044, 0.005),
    "haproxy": (0.012, 0.005),
    "client": (0.006, 0.0),
    "rabbitmq": (0.002, 0.008),
    "other services": (0.0, 0.010),
}
PROCESSES = {"cavern": 2, "worker": 1, "core": 1}
# Cores that other work left, and files staged per second, by the number of replicas.
POINTS = {
    1: [(1.48, 730), (1.79, 1174), (1.38, 799)],
    2: [(1.32, 676), (1.52, 1026), (1.79, 1058)],
    4: [(1.27, 471), (1.39, 760), (1.20, 507)],
}


@pytest.mark.parametrize(("replicas", "percent"), [(1, -1), (2, -2), (4, 25)])
def test_the_measured_points_deviate_as_the_documentation_says(replicas: int, percent: int) -> None:
    pods = {"cavern": replicas, "worker": replicas}
    parts = [
        Part(name, cpu / 1000, pods.get(name, 1), idle, PROCESSES.get(name, float("inf")))
        for name, (cpu, idle) in STAGING.items()
    ]
    found = [
        predict(parts, Machines(1, left), {"flushes": 0.000204}).rate / rate - 1
        for left, rate in POINTS[replicas]
    ]
    assert 100 * statistics.median(found) == pytest.approx(percent, abs=1)
