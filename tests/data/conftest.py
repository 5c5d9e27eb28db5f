import pytest

from dali_icgan.data import folder_index


@pytest.fixture
def listed(monkeypatch):
    """Which folders were listed."""
    paths, ours = [], folder_index._list

    def noted(path, *rest):
        paths.append(path)
        return ours(path, *rest)

    monkeypatch.setattr(folder_index, "_list", noted)
    return paths
