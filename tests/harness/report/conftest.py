"""The folder of a stored run."""

import pytest

from harness.record.events import CaseEnded, RunStarted
from harness.record.run_folder import RunFolder
from tests.harness.report.stored_run import CASES, INFO, RESULTS


@pytest.fixture
def folder(tmp_path):
    with RunFolder.create(tmp_path / "run", INFO) as folder:
        folder.append(RunStarted(time=100.0, cases=CASES))
        for i, result in enumerate(RESULTS):
            folder.append(CaseEnded(time=101.0 + i, gang=1, result=result))
        yield folder
