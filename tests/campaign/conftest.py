"""`launch` runs a whole campaign of stand-ins; see `launcher`."""

import pytest
from launcher import Launcher


@pytest.fixture
def launch(tmp_path):
  """See `Launcher`."""
  return Launcher(tmp_path)
