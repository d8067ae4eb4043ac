"""Checks of what comes over a link, which ComfyUI knows only when a node runs and then does not check; names, folders, stores of runs."""

import functools
import inspect
import itertools
import numbers
import shutil
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.media.file_names import same_but_for_case, windows_problem
from ..wan_s2v_model.runs.changes import NEW_TAKE, Notes, words_of_graph
from ..wan_s2v_model.runs.manifest import RUN_NAME, RUNS_FOLDER, Fingerprint
from ..wan_s2v_model.runs.store import RunStore
from ..wan_s2v_model.runs.takes import LookAtRuns, handed_on, takes
from ..wan_s2v_model.untrusted import MOST_NAME, shown, text_problem
from .sockets import socket_problem

UNCONNECTED = object()  # default of an optional input where None means that something is connected which brings nothing
OPTIONS_SHOWN = 10


def checks_inputs(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Let `execute` of a node raise ValueError for what its sockets, widgets and `validate_inputs` refuse; numbers become Python's own."""
    signature = inspect.signature(execute)

    @functools.wraps(execute)
    def run(cls: type[io.ComfyNode], /, *args: Any, **kwargs: Any) -> io.NodeOutput:
        _require_known(cls, kwargs, list(signature.parameters)[1:])
        given = signature.bind(cls, *args, **kwargs)
        given.apply_defaults()
        _fill_in(cls, given)
        problem = _problem(cls, _by_name(given))
        if problem is not None:
            raise ValueError(problem)
        for widget, values in itertools.product(cls.define_schema().inputs, (given.arguments, _gathered(given))):
            if widget.id in values:
                values[widget.id] = _plain(widget, values[widget.id])
        return execute(*given.args, **given.kwargs)

    return run


def shows_errors(execute: Callable[..., io.NodeOutput]) -> Callable[..., io.NodeOutput]:
    """Let the message of an error also stand on the node, for nodes that say something there after every run: it stays until then."""

    @functools.wraps(execute)
    def run(cls: type[io.ComfyNode], /, *args: Any, **kwargs: Any) -> io.NodeOutput:
        try:
            return execute(cls, *args, **kwargs)
        except Exception as error:
            comfy_bridge.text_display()(str(error))
            raise

    return run


def _require_known(node: type[io.ComfyNode], names: Iterable[str], parameters: Collection[str]) -> None:
    """Raise ValueError for a link into an input that the node does not have: ComfyUI passes it on. A graph of another version has such."""
    others = [name for name in names if name not in parameters]
    if not others:  # as nearly always: a schema lists folders
        return
    schema = node.define_schema()
    known = {item.id for item in schema.inputs}  # those of `**inputs`
    if unknown := [name for name in others if name not in known]:
        raise ValueError(
            f"{schema.display_name} has no input {shown(unknown[0])}, and something is connected to it. Take the connection away; if the "
            "graph comes from a newer version of this pack, update the pack."
        )


def _fill_in(node: type[io.ComfyNode], given: inspect.BoundArguments) -> None:
    """Let None over an optional link count as nothing connected, where that means more than None."""
    rules = given.signature.parameters
    sockets = [item.id for item in node.define_schema().inputs if item.optional and not isinstance(item, io.WidgetInput)]
    for name in set(sockets) & set(rules):
        if given.arguments[name] is None and rules[name].default is not UNCONNECTED:  # where None has words of its own
            given.arguments[name] = rules[name].default


def _by_name(given: inspect.BoundArguments) -> dict[str, Any]:
    """All arguments, those of `**inputs` too."""
    return given.arguments | _gathered(given)


def _gathered(given: inspect.BoundArguments) -> dict[str, Any]:
    """Those of `**inputs` alone; a change of them counts."""
    rules = given.signature.parameters
    return next((values for name, values in given.arguments.items() if rules[name].kind is inspect.Parameter.VAR_KEYWORD), {})


def _problem(node: type[io.ComfyNode], values: Mapping[str, Any]) -> str | None:
    """What is wrong with the values of a node, None if nothing."""
    for widget in node.define_schema().inputs:
        problem = _input_problem(widget, values[widget.id]) if widget.id in values else None
        if problem is not None:
            return problem
    rules = inspect.signature(node.validate_inputs).parameters.values()
    names = [rule.name for rule in rules if rule.kind is not rule.VAR_KEYWORD]  # that of ComfyUI's base class takes anything
    verdict = node.validate_inputs(**{name: values[name] for name in names}) if names else True
    return None if verdict is True else str(verdict)


def _input_problem(widget: io.Input, value: Any) -> str | None:
    return _widget_problem(widget, value) or (None if value is UNCONNECTED else socket_problem(widget, value))


def _widget_problem(widget: io.Input, value: Any) -> str | None:
    if isinstance(widget, io.Combo.Input):
        options = list(widget.options or ())
        few = ", ".join(map(str, options[:OPTIONS_SHOWN])) + (", ..." if len(options) > OPTIONS_SHOWN else "")
        return None if isinstance(value, str) and value in options else f"{widget.id} must be one of {few}; got {shown(value)}."
    if isinstance(widget, io.DynamicCombo.Input):
        return _dynamic_problem(widget, value)
    if isinstance(widget, io.Int.Input | io.Float.Input):
        number, words = (numbers.Integral, "a whole number") if isinstance(widget, io.Int.Input) else (numbers.Real, "a number")
        if not isinstance(value, number) or not widget.min <= value <= widget.max:
            return f"{widget.id} must be {words} from {widget.min} to {widget.max}; got {shown(value)}."
    if isinstance(widget, io.Boolean.Input) and not (isinstance(value, bool) or type(value).__name__ == "bool"):  # numpy's, too
        return f"{widget.id} must be true or false; got {shown(value)}."
    if isinstance(widget, io.String.Input):
        return text_problem(widget.id, value) if isinstance(value, str) else f"{widget.id} must be text; got {shown(value)}."
    return None


def _plain(widget: io.Input, value: Any) -> Any:
    """A value of a widget as Python's own: other nodes hand over numbers of numpy, which no JSON takes."""
    kinds = {io.Int.Input: int, io.Float.Input: float, io.Boolean.Input: bool, io.String.Input: str, io.Combo.Input: str}
    if isinstance(widget, io.DynamicCombo.Input):
        inner = {item.id: item for option in widget.options for item in option.inputs if option.key == value[widget.id]}
        return {widget.id: str(value[widget.id]), **{name: _plain(item, value[name]) for name, item in inner.items()}}
    kind = next((kind for inputs, kind in kinds.items() if isinstance(widget, inputs)), None)
    return value if kind is None else kind(value)


def _dynamic_problem(widget: io.DynamicCombo.Input, value: Mapping[str, Any] | None) -> str | None:
    """ComfyUI leaves out a choice that there is not, or one that comes over a link; the chosen inputs stand beside their choice."""
    options = {option.key: option.inputs for option in widget.options}
    value = value if isinstance(value, Mapping) else {}
    chosen = value.get(widget.id)
    if not isinstance(chosen, str) or chosen not in options:
        return choice_problem(widget.id, options, chosen)
    return next(filter(None, (_widget_problem(inner, value.get(inner.id)) for inner in options[chosen])), None)


def choice_problem(name: str, options: Iterable[str], value: Any) -> str:
    """What to say about a choice with inputs of its own that there is not."""
    return f"{name} must be one of {', '.join(options)}, chosen on the node itself; got {shown(value)}."


def run_name_problem(run_name: str | None) -> str | None:
    """What is wrong with a name, None if nothing; a linked one is not known yet."""
    if run_name is not None and not isinstance(run_name, str):
        return f"run_name must be text; got {shown(run_name)}."
    if run_name and not RUN_NAME.fullmatch(run_name):
        return (
            "run_name may hold letters, digits, spaces, dots, dashes and underscores, at most 100 of them, and begins with a letter, "
            f"digit or underscore; got {shown(run_name)}."
        )
    if run_name and len(run_name.encode()) > MOST_NAME:
        return f"run_name has {len(run_name.encode())} bytes, and a name on a disk at most {MOST_NAME}. Shorten it."
    if run_name and (problem := windows_problem(run_name)):
        return f"run_name: {run_name!r} {problem}"
    if run_name and (other := same_but_for_case(run_folder(run_name))):
        return (
            f"run_name: there is a run {other!r}, and on Windows and macOS {run_name!r} is the same name. Write it so, or choose another."
        )
    return None


class KeepsRun:
    """For nodes that keep what they make under their input `run_name`."""

    @classmethod
    def validate_inputs(cls, run_name) -> bool | str:
        return run_name_problem(run_name) or True

    @classmethod
    def fingerprint_inputs(cls, run_name="", **inputs):
        """What a named run has made is made again where its folder is gone or has changed; a linked name is not known yet."""
        return handed_on.count(run_name, inputs) if isinstance(run_name, str) and run_name else 0


def clip_to_redo(run_name: str, redo_from_clip: int) -> int | None:
    """From which clip a run is sampled anew, counted from 0 as in the code; None where all clips are kept.

    Args:
        redo_from_clip: counted from 1; 0 or less keeps all.
    """
    if redo_from_clip < 1:
        return None
    if not run_name:
        raise ValueError("redo_from_clip needs the run_name of an earlier run.")
    return redo_from_clip - 1


def run_folder(run_name: str) -> Path:
    """The folder of a named run, which may not exist yet."""
    return Path(folder_paths.get_output_directory()) / RUNS_FOLDER / run_name


@contextmanager
def folder_of_run(run_name: str) -> Iterator[Path]:
    """The folder in which a run is kept; one without a name gets a temporary one, which goes if the run is not finished."""
    if run_name:
        yield run_folder(run_name)
        return
    folder = Path(folder_paths.get_temp_directory()) / f"wan_s2v_{uuid.uuid4().hex}"
    with ExitStack() as if_it_fails:
        if_it_fails.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder
        if_it_fails.pop_all()


@contextmanager
def opened_run(
    node: type[io.ComfyNode],
    run_name: str,
    kept_inputs: Callable[[Mapping[str, str]], tuple[Fingerprint, Notes]],
    redo_from: int | None,
    fixed: Collection[str],
    if_changed: str,
) -> Iterator[tuple[RunStore, str]]:
    """The store of a run, and what to say beside the clips where it is another take; a run with a name is noted when it is finished.

    Args:
        kept_inputs: gives what the folder of a named run is compared with, from the words of the prompt that was queued.
        redo_from, fixed, if_changed: as of `RunStore.open`.
    """
    place = comfy_bridge.place_in_list()
    words = words_of_graph(node.hidden.prompt, place.node_id) if run_name and place else {}
    kept = kept_inputs(words) if run_name else ({}, Notes())
    look = LookAtRuns(run_folder(""), *kept)
    searches = if_changed == NEW_TAKE and redo_from is None
    name = takes.name(run_name, place, look.may_go_on if searches else lambda name: True)
    with folder_of_run(name) as folder, RunStore.open(folder, *kept, redo_from, fixed, if_changed) as store:
        yield store, look.take(name)
    if run_name:
        handed_on.note(run_name, folder)
