"""Requests of pipelines, for tests."""

from harness.plan.pipelines.targets import Request, targets


def request(devices="h100:2,mi355:2", **changes):
    return Request(suite="ci", targets=targets(devices), **changes)
