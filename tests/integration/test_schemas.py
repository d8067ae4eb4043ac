"""The snapshot of what saved graphs depend on. After adding a node, an input or an output:

    UPDATE_SCHEMAS=1 scripts/test tests/integration/test_schemas.py

writes the addition into schemas.json. A change that breaks saved graphs is not written; only a new MAJOR version may make one, by hand.
"""

from __future__ import annotations

import os

import pytest
from wan_s2v_pack.tests.schemas import UPDATE, breaking_changes, read_snapshot, schemas_of, write_snapshot


@pytest.fixture
def schemas(client):
    return schemas_of(client.object_info(), "custom_nodes.wan_s2v")


def test_no_saved_graph_breaks(schemas):
    assert breaking_changes(read_snapshot(), schemas) == []


def test_the_snapshot_is_up_to_date(schemas):
    snapshot = read_snapshot()
    if os.environ.get(UPDATE) and not breaking_changes(snapshot, schemas):
        write_snapshot(schemas)
    assert read_snapshot() == schemas, f"something was added: set {UPDATE}=1 and run this test once, then commit schemas.json"
