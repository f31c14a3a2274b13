"""All numbers of `grawa plan`, for programs."""

from collections.abc import Mapping, Sequence
from typing import Any

from grawa.lab.planning.predict import VARIANTS, Measured, Method, Variant, predict, smallest_tau
from grawa.lab.report.plan import intervals
from grawa.lab.report.plan_answer import plan_answer
from grawa.lab.simulate.network import HostNetwork


def plan_json(measured: Measured, most_lost: float) -> dict[str, Any]:
    """All measurements and predictions, as plain values."""
    network = measured.network
    inner = network.inner if isinstance(network, HostNetwork) else None
    taus = intervals(measured, most_lost)
    return {
        "answer": plan_answer(measured, most_lost),
        "measured": {
            "step_seconds": measured.step_seconds,
            "samples_per_step": measured.samples,
            "model_bytes": measured.model_bytes,
            "parameter_bytes": measured.parameter_bytes,
            "with_averaging": measured.with_averaging,
            "copy_seconds": measured.copy_seconds,
            "workers": network.num_workers,
            "topology": network.topology,
            "bandwidth": network.link.bandwidth,
            "latency": network.link.latency,
            "hosts": network.hosts if isinstance(network, HostNetwork) else None,
            "inner_bandwidth": inner and inner.bandwidth,
            "inner_latency": inner and inner.latency,
            "options": network.options,
        },
        "most_lost": most_lost,
        "methods": [
            {
                **vars(method),
                "variants": {
                    v.name: {
                        "smallest": smallest_tau(measured, method, v, most_lost),
                        "by_sync_every": _by_tau(measured, method, v, taus),
                    }
                    for v in VARIANTS
                },
            }
            for method in measured.methods
        ],
    }


def _by_tau(
    measured: Measured, method: Method, variant: Variant, taus: Sequence[int]
) -> Mapping[str, Any]:
    full, by_tau = measured.full_speed, {}
    for tau in taus:
        found = predict(measured, method, variant, tau)
        by_tau[str(tau)] = {"samples_per_second": full and full * found.speed, **vars(found)}
    return by_tau
