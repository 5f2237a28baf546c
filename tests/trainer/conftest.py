"""The real data sets where they are, and made-up ones everywhere."""

import os
from pathlib import Path

import pytest
import torch

from tests.trainer.made_up import MADE_UP
from trainer.recipe import Conditions

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real data sets; the test skips where there are none."""
    places = [os.environ.get("SLUICE_DATA_DIR"), REPOSITORY / "data", REPOSITORY.parent / "shared" / "data"]
    for place in places:
        if place and (Path(place) / "churn").is_dir():
            return Path(place)
    pytest.skip("no data sets: set SLUICE_DATA_DIR or put them into data/ (docs/data.md)")


@pytest.fixture
def conditions() -> Conditions:
    return Conditions(seed=0, device=torch.device("cpu"), quiet=True)


@pytest.fixture
def made_up_data(tmp_path: Path) -> Path:
    """A data directory with small made-up data sets for all three models."""
    directory = tmp_path / "data"
    for write in MADE_UP.values():
        write(directory)
    return directory
