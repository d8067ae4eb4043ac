"""The record of what saved graphs depend on: `scripts/update` writes additions into schemas.json.

A change that breaks saved graphs is not written; only a new MAJOR version may make one, with `scripts/update --breaking`.
"""

from __future__ import annotations

import pytest
from wan_s2v_pack.scripts.records.schemas import breaking_changes, read_snapshot, schemas_of

MODULE = "custom_nodes.wan_s2v"


@pytest.fixture
def schemas(client):
    return schemas_of(client.object_info(), MODULE)


def test_no_saved_graph_breaks(schemas):
    assert breaking_changes(read_snapshot(), schemas) == []


def test_the_snapshot_is_up_to_date(schemas):
    recorded = read_snapshot()
    changed = [name for name in sorted({*recorded, *schemas}) if recorded.get(name) != schemas.get(name)]
    assert changed == [], "these nodes have changed, tests/integration/schemas.json has not: run scripts/update, then commit it"
