"""What the nodes say about themselves, read from their source without ComfyUI, as ComfyUI's translation files hold it.

ComfyUI's front end looks up `nodeDefs.json` of the chosen language under `<node id>.display_name`, `.description`,
`.inputs.<name>.name|tooltip` and `.outputs.<index>.name|tooltip`. Choices of a combo are values, and are not translated.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

Texts = dict[str, dict[str, Any]]

ROOT = Path(__file__).resolve().parents[2]
LOCALES = ROOT / "locales"
CONTROL = "control_after_generate"
NODE_FILES = sorted((ROOT / "nodes").glob("*.py"))


class UntranslatedText(UserWarning):
    """A text that ComfyUI shows in English to readers of another language."""


def node_texts() -> Texts:
    """Node id -> its texts, in the order of the nodes' files."""
    return {text_of(schema, "node_id"): _texts_of(schema) for schema in schema_calls()}


def aliases() -> dict[str, list[str]]:
    """Node id -> other words under which the search finds it."""
    return {text_of(schema, "node_id"): ast.literal_eval(keyword(schema, "search_aliases") or ast.List([])) for schema in schema_calls()}


def categories() -> set[str]:
    """The parts of the paths in the menu."""
    return {part for schema in schema_calls() for part in text_of(schema, "category").split("/")}


def read_locale(language: str, file: str = "nodeDefs.json") -> Texts:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def locale_files() -> dict[str, str]:
    """Path in this checkout -> text of every language's file: English as the nodes say it, the others without texts that are gone."""
    english = node_texts()
    texts = {language: english if language == "en" else _kept(read_locale(language), english) for language in languages()}
    return {f"locales/{language}/nodeDefs.json": json.dumps(text, indent=2, ensure_ascii=False) + "\n" for language, text in texts.items()}


def languages() -> list[str]:
    return sorted(path.name for path in LOCALES.iterdir())


def _kept(translated: dict[str, Any], english: dict[str, Any]) -> dict[str, Any]:
    """A translation without what the English texts do not have."""
    return {
        key: _kept(text, english[key]) if isinstance(text, dict) else text
        for key, text in translated.items()
        if isinstance(english.get(key), type(text))
    }


@cache
def schema_calls() -> list[ast.Call]:
    """The io.Schema(...) calls of the nodes; names of constants in their texts are filled in."""
    calls = []
    for path in NODE_FILES:
        module = ast.parse(path.read_text(encoding="utf-8"))
        constants = {ast.unparse(item.targets[0]): item.value for item in module.body if isinstance(item, ast.Assign)}
        for item in ast.walk(module):
            if isinstance(item, ast.Call) and ast.unparse(item.func) == "io.Schema":
                calls.append(_fill_in(item, constants))
    return calls


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((item.value for item in call.keywords if item.arg == name), None)


def text_of(call: ast.Call, name: str) -> str:
    value = keyword(call, name)
    return "" if value is None else ast.literal_eval(value)


def elements(schema: ast.Call, name: str) -> list[ast.Call]:
    """The calls that make the inputs or the outputs of a node."""
    value = keyword(schema, name)
    assert isinstance(value, ast.List), f"{name} of a node is not a list"
    return value.elts


def _fill_in(schema: ast.Call, constants: dict[str, ast.expr]) -> ast.Call:
    for call in ast.walk(schema):
        for item in call.keywords if isinstance(call, ast.Call) else ():
            if item.arg in ("tooltip", "description") and isinstance(item.value, ast.Name):
                item.value = constants[item.value.id]
    return schema


def _texts_of(schema: ast.Call) -> dict[str, Any]:
    inputs: dict[str, dict[str, str]] = {}
    for call in elements(schema, "inputs"):
        name = call.args[0].value
        inputs[name] = {"name": name, "tooltip": text_of(call, "tooltip")}
        if keyword(call, CONTROL):
            inputs[CONTROL] = {"name": CONTROL.replace("_", " ")}  # a widget that the front end adds
    outputs = {
        str(index): {"name": text_of(call, "display_name"), "tooltip": text_of(call, "tooltip")}
        for index, call in enumerate(elements(schema, "outputs"))
    }
    return {
        "display_name": text_of(schema, "display_name"),
        "description": text_of(schema, "description"),
        "inputs": inputs,
        "outputs": outputs,
    }
