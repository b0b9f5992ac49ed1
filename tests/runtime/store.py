"""An object store for tests: addresses `fake://...` that epath resolves to a folder of this machine."""

import pytest
from etils import epath
from etils.epath import register


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The folder behind `fake://`; copies of what is read from it go below the test's own cache."""
    root = tmp_path / "store"
    root.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(
        register._URI_PREFIXES_TO_CLS,
        "fake://",
        lambda url: epath.Path(str(root / url.removeprefix("fake://"))),
    )
    return root
