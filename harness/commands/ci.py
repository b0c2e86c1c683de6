"""Run `ci`: print a pipeline that runs a suite on several kinds of devices, or upload it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from harness.errors import ExitCode, InfrastructureError, UsageError
from harness.matrix import expand, load
from harness.plan import requirements
from harness.plan.pipelines import buildkite, checks, github, vllm
from harness.plan.pipelines.targets import CHIPS, Request, check_chip, targets

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from harness.plan.pipelines.targets import Target

AGENT = "buildkite-agent"
PROJECTS = (Path("pyproject.toml"), Path(__file__).parents[2] / "pyproject.toml")
UPLOAD_SECONDS = 120.0


def make_pipeline(args: argparse.Namespace) -> int:
    """Print or upload the pipeline. Raises UsageError; nothing is printed or uploaded then."""
    request = request_of(args)
    if args.dialect == "github":
        print(json.dumps(github.matrix(request)))
    elif args.dialect == "vllm":
        print(_yaml(vllm.test_area(request)), end="")
    else:
        _buildkite(request, upload=args.upload)
    return ExitCode.PASSED


def request_of(args: argparse.Namespace) -> Request:
    """Return what the options ask for. Raises UsageError and ConfigError."""
    expand.suite_of(load.load(load.find(args.config)), args.suite)
    if args.upload and args.dialect != "buildkite":
        raise UsageError("--upload goes with --dialect buildkite")
    _check_extras(args.extras)
    requested = targets(args.devices)
    for option, chips in (("--soft-fail", args.soft_fail), ("--optional", args.optional)):
        for chip in chips:
            _check_asked(chip, option, {target.chip for target in requested})
    for word in args.require:
        chip, slash, required = word.rpartition("/")
        if slash:
            _check_asked(chip, "--require", {target.chip for target in requested})
        requirements.check_words([required])
    return Request(
        suite=args.suite,
        targets=requested,
        shards=args.shards,
        require=tuple(args.require),
        extras=args.extras,
        soft=frozenset(args.soft_fail),
        optional=frozenset(args.optional),
        queues=tuple(_queue(word, requested) for word in args.queue),
        minutes=args.minutes,
        durations_from=args.durations_from,
    )


def _check_extras(text: str | None) -> None:
    """Raise UsageError for a name that is not an extra of the project that jobs set up.

    It is that of the current folder; where that has none, the one that this module is from. An
    installed harness without its pyproject.toml checks no names.
    """
    path = next((path for path in PROJECTS if path.is_file()), None)
    if text is None or path is None:
        return
    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    known = project.get("optional-dependencies", {})
    unknown = [name for name in text.split(",") if name not in known]
    if unknown:
        names = ", ".join(sorted(known)) or "none"
        raise UsageError(f"--extras: no extra is called {unknown[0]!r} (known: {names})")


def _check_asked(chip: str, option: str, requested: set[str]) -> None:
    check_chip(chip, option)
    if chip not in requested:
        raise UsageError(f"{option} names {chip}, and --devices does not")


def _queue(text: str, requested: Sequence[Target]) -> tuple[str, str]:
    """Return a device and its queue. `cpu` has one in any case: reports are made there."""
    chip, equals, queue = text.partition("=")
    if not equals or not queue or len(text.split()) > 1 or chip not in CHIPS:
        raise UsageError(f"--queue takes DEVICE=NAME, such as h100=gpu-pool, not {text!r}")
    _check_asked(chip, "--queue", {"cpu", *(target.chip for target in requested)})
    return chip, queue


def _buildkite(request: Request, *, upload: bool) -> None:
    """Check the pipeline, then print it or hand it to the agent, in parts if it is too large."""
    pipeline = buildkite.pipeline(request)
    parts = buildkite.uploads(pipeline, checks.MAX_JOBS)
    lines = [line for part in parts for line in checks.problems(part)]
    count = sum(map(buildkite.jobs, pipeline["steps"]))
    if count > checks.MAX_BUILD_JOBS:
        lines.append(f"{count} jobs are more than a build may have ({checks.MAX_BUILD_JOBS})")
    if len(parts) > 1 and not upload:
        lines.append(f"{count} jobs need {len(parts)} uploads: --upload makes them")
    if lines:
        raise UsageError("\n".join(lines))
    for part in parts:
        text = _yaml(part)
        if upload:
            _upload(text)
        else:
            print(text, end="")


def _upload(text: str) -> None:
    """Hand a pipeline to the agent. Raises InfrastructureError."""
    if shutil.which(AGENT) is None:
        raise InfrastructureError(
            f"{AGENT} is not on PATH; without --upload the pipeline is printed"
        )
    command = [AGENT, "pipeline", "upload"]
    try:
        subprocess.run(command, input=text, text=True, check=True, timeout=UPLOAD_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise InfrastructureError(f"the pipeline was not uploaded: {error}") from error
    print("uploaded a pipeline", file=sys.stderr)


class _Dumper(yaml.SafeDumper):
    """Write no anchors: the same rule in several steps is written out."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def _yaml(data: dict[str, Any]) -> str:
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=1000)
