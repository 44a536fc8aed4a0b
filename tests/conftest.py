"""What all tests share: no network, no windows, and where the images are."""

import csv
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported
os.environ["MPLBACKEND"] = "Agg"

import numpy as np
import pytest
from numpy.typing import NDArray

from imgembed.demo import gallery_paths

# Exported networks are kept for this run; other processes that tests start share them.
_exports = tempfile.TemporaryDirectory(prefix="imgembed-tests-")
os.environ["IMGEMBED_CACHE"] = _exports.name


class _Sayings:
    """What tests have said by ``record_property("said", line)``, printed as they end."""

    def __init__(self, reporter: pytest.TerminalReporter) -> None:
        self._reporter = reporter

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        lines = [str(value) for name, value in report.user_properties if name == "said"]
        if report.when == "call" and lines:
            self._reporter.ensure_newline()
            self._reporter.write("".join(f"{line}\n" for line in lines), flush=True)


@pytest.hookimpl(trylast=True)  # after the reporter is there
def pytest_configure(config: pytest.Config) -> None:
    """See to it that tests can say something, from the processes of pytest-xdist too."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None:
        config.pluginmanager.register(_Sayings(reporter))


SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
NO_SHARED_DATA = f"the image sets for testing are not at {SHARED_DATA}"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of image sets that may not be shipped with the project."""
    if SHARED_DATA.is_dir():
        return SHARED_DATA
    if "IMGEMBED_REQUIRE_SHARED_DATA" in os.environ:
        pytest.fail(NO_SHARED_DATA)
    pytest.skip(NO_SHARED_DATA)


def read_ground_truth(table: Path) -> list[dict[str, str]]:
    """The rows of a table of an image set: of each image its path, and what it shows."""
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="session")
def photographs() -> list[Path]:
    """Real photographs that come with scikit-image."""
    return gallery_paths()


@pytest.fixture
def make_noise() -> Callable[..., NDArray[np.uint8]]:
    """A maker of images of random blocks, which have keypoints."""

    def make(seed: int = 0, height: int = 120, width: int = 160) -> NDArray[np.uint8]:
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
        return np.kron(blocks, np.ones((10, 10, 1), dtype=np.uint8))

    return make


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    import matplotlib.pyplot as plt

    plt.close("all")
