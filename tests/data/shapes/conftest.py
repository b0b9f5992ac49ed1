import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def many_rows(tmp_path_factory):
    """`make_rows.Rows`, made in another process."""
    path = tmp_path_factory.mktemp("rows") / "rows.pickle"
    run = [sys.executable, "-m", "tests.data.shapes.make_rows", str(path)]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    subprocess.run(run, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths})
    return pickle.loads(path.read_bytes())
