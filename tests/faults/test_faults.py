import pytest

from tests.faults.campaign import Campaign

pytestmark = pytest.mark.dali


@pytest.mark.timeout(280)
def test_killed_jobs_go_on_exactly_where_they_were(tmp_path):
    """The short form of `make faults`."""
    counts = Campaign(tmp_path, kills=14, seed=5).run()
    assert counts.mismatches == []
    assert counts.kills == 14
    assert counts.samples > 300
