"""The pytest plugin `moe_harness`: suites of a matrix file as tests, and ranks for any test.

    pytest --moe-suite ci -n 4 -k "triton and not fp8"

Every pytest run of an environment imports this module: it imports nothing of the harness before an
option or a fixture asks for it.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.testing.function_gang import FunctionGang
    from harness.testing.ranks_of_session import RanksOfSession
    from harness.testing.suite_cases import SuiteCases, SuiteOptions
    from harness.testing.suite_run import SuiteRun

_OPTIONS = (
    ("--moe-matrix", "FILE", "the matrix file (configs/matrix.yaml)"),
    ("--moe-platform", "NAME", "plan for another chip; goes with --collect-only"),
    ("--moe-experts", "NAME", "one experts backend for all cases: a name or pkg.mod:Class"),
    ("--moe-layer", "NAME", "one whole layer with its own experts for all: pkg.mod:Class"),
    ("--moe-known-failures", "FILE", "known failures (configs/known_failures.yaml)"),
    ("--moe-out", "DIR", "write the run's folder, for `python -m harness report` and the like"),
)
_NUMBERS = (
    ("--moe-devices", int, "use N of this machine's GPUs; with --moe-platform, of that chip"),
    ("--moe-retries", int, "tries of a failed case, each in a fresh gang"),
    ("--moe-time-limit", float, "seconds that one case may take"),
)
_MARKERS = (
    "world_size(n, device='cpu', transport=None, timeout=60): ranks of the fixture `gang`",
    "moe(**axes): a case of a matrix file, with the value of each axis",
)
_WORKER = "workerinput"  # attribute of the config of an xdist worker


class State:
    """What the plugin keeps for one session.

    sent: what a worker of xdist got from the main process. lines: the cases' ids with their lines
    in the matrix file; None before they are known.
    """

    def __init__(self, options: SuiteOptions | None, sent: dict[str, Any]) -> None:
        self.options, self.is_worker = options, bool(sent)
        self.lines: dict[str, int] | None = sent.get("moe_lines")
        self.slots: str | None = sent.get("moe_slots")  # folder with the slots of all workers
        self.folder: str = sent.get("moe_folder", "")  # for logs
        self.suite: SuiteCases | None = None  # in the main process
        self.ranks: RanksOfSession | None = None
        self.run: SuiteRun | None = None


_state = pytest.StashKey[State]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("moe", "suites of fused MoE layers")
    group.addoption("--moe-suite", metavar="NAME", help="collect a suite of the matrix file")
    for name, metavar, text in _OPTIONS:
        group.addoption(name, metavar=metavar, help=text)
    for name, kind, text in _NUMBERS:
        group.addoption(name, type=kind, metavar="N", help=text)
    text = "let several workers of xdist use the same GPU"
    group.addoption("--moe-share-devices", action="store_true", help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; for a suite, add the matrix file to what is collected."""
    for line in _MARKERS:
        config.addinivalue_line("markers", line)
    options = _options(config)
    state = config.stash[_state] = State(options, getattr(config, _WORKER, {}))
    if options is None or config.getoption("help"):
        return
    from harness.testing.suite_cases import matrix_file
    from harness.testing.suite_outcome import SuiteOutcome

    _collect_also(config, matrix_file(options))
    if not state.is_worker:
        config.pluginmanager.register(SuiteOutcome(options.suite), "moe_suite_outcome")
    if options.out is not None:
        from harness.testing.suite_record import ResultSender

        config.pluginmanager.register(ResultSender(), "moe_result_sender")


def _collect_also(config: pytest.Config, path: Path) -> None:
    """Add a file to the run's arguments, in place of `testpaths` or the current folder."""
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.args.clear()
    folder = config.invocation_params.dir
    if not any((folder / arg.split("::")[0]).resolve() == path for arg in config.args):
        config.args.append(str(path))


@pytest.hookimpl(tryfirst=True)  # before xdist starts its workers
def pytest_sessionstart(session: pytest.Session) -> None:
    """Find and plan the cases, in the main process only, so that wrong options end the run here."""
    state = session.config.stash[_state]
    if state.options is None or state.is_worker:
        return
    from harness.errors import HarnessError
    from harness.testing.suite_cases import as_own_options, planned, points_of
    from moe.errors import MoEError

    try:
        state.lines = points_of(state.options)
        state.suite = planned(state.options, state.lines)
    except (HarnessError, MoEError) as error:
        raise pytest.UsageError(as_own_options(str(error))) from error
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    folder = session.config.invocation_params.dir
    logs = folder / "runs" / f"{stamp}-pytest-{state.options.suite}"
    state.folder = str(logs if state.options.out is None else folder / state.options.out)
    if state.options.out is not None:
        _record(session.config, state.options, state.lines, folder / state.options.out)


def _record(
    config: pytest.Config, options: SuiteOptions, lines: dict[str, int], path: Path
) -> None:
    """Write a run folder. Raises UsageError for one that is there already."""
    from harness.testing.suite_record import SuiteRecord

    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise pytest.UsageError(f"--moe-out: {str(path)!r} is there already; choose a new folder")
    argv = ["pytest", *map(str, config.invocation_params.args)]
    config.pluginmanager.register(SuiteRecord(options, lines, path, argv), "moe_suite_record")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Send the cases to a worker of xdist, and where the slots of all workers are."""
    state = node.config.stash[_state]
    if state.slots is None:
        state.slots = tempfile.mkdtemp(prefix="moe-slots-")
    sent = {"moe_slots": state.slots, "moe_lines": state.lines, "moe_folder": state.folder}
    node.workerinput.update(sent)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler that goes on after a worker's death, for a run with a suite."""
    if config.stash[_state].options is None:
        return None
    from harness.testing.xdist_schedulers import mended

    return mended(config, log)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect the matrix file, if a suite is asked for."""
    state = parent.config.stash[_state]
    if state.options is None or state.lines is None:
        return None
    from harness.testing.case_items import MatrixFile
    from harness.testing.suite_cases import matrix_file

    if file_path.resolve() != matrix_file(state.options):
        return None
    file: MatrixFile = MatrixFile.from_parent(parent, path=file_path)
    file.run = _suite_run(parent.config, state)
    return file


def pytest_unconfigure(config: pytest.Config) -> None:
    """End all ranks of this process; in the main process, remove the workers' slots."""
    state = config.stash.get(_state, None)
    if state is None:
        return
    if state.ranks is not None:
        state.ranks.close()
    if state.slots is not None and not state.is_worker:
        shutil.rmtree(state.slots, ignore_errors=True)


@pytest.fixture
def gang(request: pytest.FixtureRequest) -> Iterator[FunctionGang]:
    """Call functions in ranks: `gang(fn, *args)` returns each rank's value, in rank order.

    The mark `world_size(4)` says how many ranks; they stay warm for later tests.
    """
    from harness.testing.function_gang import FunctionGang
    from harness.testing.ranks_of_session import devices_for

    config = request.config
    ranks = _ranks(config, config.stash[_state])
    size, options = _world_of(request)
    try:
        wanted = FunctionGang(ranks.gangs, size, devices=devices_for(ranks, options), **options)
    except (TypeError, ValueError) as error:
        pytest.fail(f"@pytest.mark.world_size: {error}", pytrace=False)
    yield wanted
    wanted.release()


def _world_of(request: pytest.FixtureRequest) -> tuple[int, dict[str, Any]]:
    """Return the arguments of the test's mark `world_size`; a parameter of the fixture wins."""
    mark = request.node.get_closest_marker("world_size")
    options = {} if mark is None else dict(mark.kwargs)
    sizes = [*([] if mark is None else mark.args), *filter(None, [options.pop("n", None)])]
    size = getattr(request, "param", sizes[0] if len(sizes) == 1 else None)
    if not isinstance(size, int):
        text = "the fixture `gang` needs a number of ranks: mark the test with"
        pytest.fail(f"{text} @pytest.mark.world_size(4)", pytrace=False)
    return size, options


def _options(config: pytest.Config) -> SuiteOptions | None:
    """Return what the options ask for; None without a suite. Raises UsageError."""
    names = [name for name, *_ in (*_OPTIONS, *_NUMBERS)]
    values = {name: config.getoption(name.removeprefix("--").replace("-", "_")) for name in names}
    suite, share = config.getoption("moe_suite"), config.getoption("moe_share_devices")
    options = [name for name, value in values.items() if value is not None]
    if suite is None:
        if options or share:
            text = f"{(options or ['--moe-share-devices'])[0]} goes with --moe-suite NAME"
            raise pytest.UsageError(text)
        return None
    if values["--moe-platform"] is not None and not config.getoption("collectonly"):
        text = "--moe-platform plans for another chip, and nothing can run: add --collect-only"
        raise pytest.UsageError(text)
    from harness.testing.suite_cases import SuiteOptions

    fields = {name.removeprefix("--moe-").replace("-", "_"): values[name] for name in names}
    for name in ("matrix", "known_failures", "out"):
        fields[name] = None if fields[name] is None else Path(fields[name])
    return SuiteOptions(suite=suite, share_devices=share, workers=_workers(config), **fields)


def _workers(config: pytest.Config) -> int:
    """Return how many processes run tests at once: xdist's workers, or this one."""
    sent: dict[str, Any] = getattr(config, _WORKER, {})
    if sent:
        return int(sent["workercount"])
    specs = getattr(config.option, "tx", None)
    if not specs or getattr(config.option, "dist", "no") == "no":
        return 1
    from xdist.workermanage import parse_tx_spec_config

    return len(parse_tx_spec_config(config))


def _ranks(config: pytest.Config, state: State) -> RanksOfSession:
    from harness.testing.ranks_of_session import RanksOfSession

    if state.ranks is None:
        slots = Path(state.slots) if state.slots is not None and state.is_worker else None
        state.ranks = RanksOfSession(slots, _workers(config))
    return state.ranks


def _suite_run(config: pytest.Config, state: State) -> SuiteRun:
    from harness.testing.suite_run import SuiteRun

    if state.run is None:
        assert state.options is not None
        assert state.lines is not None
        ranks = _ranks(config, state)
        folder = Path(state.folder)
        state.run = SuiteRun(state.options, state.lines, ranks, folder, state.suite)
    return state.run
