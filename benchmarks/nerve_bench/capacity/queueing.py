"""Closed forms of queueing theory: what a simulation is held to, and an estimate that needs no simulation.

Times are seconds. `load` is offered load over capacity, also called utilisation or rho; scv is a squared coefficient of
variation: variance over the squared mean, 0 for a metronome, 1 for Poisson arrivals or exponential service.
"""

import math


def mean_wait_s(load: float, service_s: float, service_scv: float, arrival_scv: float = 1.0) -> float:
    """Mean wait of one server, infinite from load 1 on: Kingman's formula.

    With Poisson arrivals (arrival_scv 1) it is exact, Pollaczek and Khinchine's; otherwise it is an upper bound in heavy
    traffic. Source: Kingman 1961; Kleinrock, Queueing Systems, volume 2, chapter 2.
    """
    if load >= 1:
        return math.inf
    return load / (1 - load) * (arrival_scv + service_scv) / 2 * service_s


def shared_queue_wait_s(
    load: float, service_s: float, service_scv: float, arrival_scv: float = 1.0, servers: int = 1
) -> float:
    """Mean wait of one queue before several servers: Allen and Cunneen's approximation, Kingman's for one server.

    It says what streams that may go to any replica would wait; ours stay on one, where their state is.
    """
    if load >= 1:
        return math.inf
    scv = (arrival_scv + service_scv) / 2
    return wait_probability(load, servers) * scv * service_s / (servers * (1 - load))


def wait_probability(load: float, servers: int) -> float:
    """Probability that all of some servers are busy, with Poisson arrivals and exponential service: Erlang's C."""
    offered = load * servers
    blocked = 1.0
    for count in range(1, servers + 1):  # Erlang's B by recursion: factorials overflow from 170 servers on
        blocked = offered * blocked / (count + offered * blocked)
    return blocked / (1 - load * (1 - blocked))


def wait_quantile_s(probability: float, load: float, wait_s: float) -> float:
    """Wait that so many of all frames stay under, if waits are 0 or exponential: P(wait > t) = load exp(-load t / mean).

    Exact for M/M/1, an approximation of heavy traffic otherwise.
    """
    if math.isinf(wait_s):
        return math.inf
    return max(0.0, wait_s / load * math.log(load / (1 - probability))) if load > 0 else 0.0


def full_probability(load: float, places: int) -> float:
    """Share of frames that find one server and its queue full, `places` in all: M/M/1/K.

    It holds for the newest frame of one stream too (places 2): which of two frames is dropped does not change how many are.
    """
    if load == 1:
        return 1 / (places + 1)
    return (1 - load) * load**places / (1 - load ** (places + 1))
