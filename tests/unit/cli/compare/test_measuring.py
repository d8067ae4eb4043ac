"""The node that compares, as the command asks for it."""

from __future__ import annotations

import ast
import json
from unittest.mock import Mock

import pytest
from wan_s2v_pack.cli.comfyui.errors import ComfyError
from wan_s2v_pack.cli.compare.measuring import CALLS, NODE, NODE_ID, call_models
from wan_s2v_pack.cli.models.folders import ModelFolders


@pytest.fixture
def folders(tmp_path):
    (tmp_path / "diffusion_models").mkdir()
    (tmp_path / "diffusion_models" / "a.safetensors").touch()
    return ModelFolders(tmp_path, {})


def test_the_file_goes_in_and_the_measurements_come_out(folders):
    client = Mock()
    client.run.return_value = {NODE_ID: {"measured": [json.dumps({"dtype": "bfloat16"})]}}
    assert call_models(client, folders, "a.safetensors") == {"dtype": "bfloat16"}
    (prompt,) = client.run.call_args.args
    assert prompt == {NODE_ID: {"class_type": NODE, "inputs": {"path": str(folders.models / "diffusion_models" / "a.safetensors")}}}


@pytest.mark.parametrize("outputs", [{}, {NODE_ID: {}}, {NODE_ID: {"measured": []}}])
def test_no_result_is_an_error_in_words(folders, outputs):
    client = Mock()
    client.run.return_value = outputs
    with pytest.raises(ComfyError, match="ended without a result"):
        call_models(client, folders, "a.safetensors")


def test_the_nodes_folder_is_a_pack_of_its_own():
    source = ast.parse((CALLS / "__init__.py").read_text(encoding="utf-8"))
    assert not [item for item in ast.walk(source) if isinstance(item, ast.ImportFrom) and item.level]  # it has no folder above it there
    assigned = {
        ast.unparse(target): ast.unparse(item.value) for item in source.body if isinstance(item, ast.Assign) for target in item.targets
    }
    assert assigned["NODE_CLASS_MAPPINGS"] == f"{{'{NODE}': {NODE}}}"
