"""Documents and reference calls of tools, as their `ToolSpec` says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolgym.envs.toolscenario.codegen.encoding import Field, arguments, fields_of, schema_of
from toolgym.envs.toolscenario.codegen.toolspecs import (
    KINDS,
    Param,
    ToolSpec,
    core,
    options,
    parameter_name,
)
from toolgym.envs.toolscenario.worlds.knowledge import Knowledge
from toolgym.envs.toolscenario.worlds.relations import Relation
from toolgym.scenario import FROM, ReferenceCall, ToolDocument

__all__ = ["DEMANDED", "PlannedCall", "Tool", "call", "document"]

DEMANDED: Mapping[str, Any] = {
    **{"language": "en", "include_details": False},
    **{"match": "tolerant", "missing": "error"},
}
"""What a reference call gives for options that the tool demands."""


@dataclass(frozen=True)
class PlannedCall:
    """What a sub-question asks of a tool; plain data.

    Args:
        id: of the sub-question.
        kind: of the tool.
        value: the answer as JSON.
        inputs: values by parameter; ``entity`` for the subject; ``{"$from": "q1"}`` for the value
            of an earlier step.
        subject: type of entity that the tool is about.
        relations: that it looks up, finds by or orders by.
        operation: of an aggregation, or the dimension of a conversion.
        about: name of the entity, also where an earlier step finds it.
    """

    id: str
    kind: str
    value: Any
    inputs: dict[str, Any]
    subject: str = ""
    relations: tuple[str, ...] = ()
    operation: str = ""
    about: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Earlier steps whose values it takes."""
        return tuple(dict.fromkeys(_references(self.inputs)))


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        if FROM in value:
            return [value[FROM]]
        return [name for item in value.values() for name in _references(item)]
    return [n for item in value for n in _references(item)] if isinstance(value, list) else []


@dataclass
class Tool:
    """A spec with the parameters that follow from it.

    Args:
        spec: of the tool.
        knowledge: its words.
    """

    spec: ToolSpec
    knowledge: Knowledge
    core: list[Param] = field(init=False)
    options: list[Param] = field(init=False)
    by_param: dict[str, list[Field]] = field(init=False)

    def __post_init__(self) -> None:
        spec = self.spec
        self.core = core(spec, self.knowledge.types.get(spec.subject), self.relations)
        self.options = options(spec)
        plurals = {item.name: item.plural for item in self.knowledge.types.values()}
        self.by_param = {
            param.name: fields_of(param, spec.typing, plurals, self.batch)
            for param in (*self.core, *self.options)
        }

    @property
    def batch(self) -> bool:
        """Whether it takes several entities at once."""
        return self.spec.kind == "lookup" and self.spec.typing >= 2 and not self.spec.several

    @property
    def relations(self) -> Mapping[str, Relation]:
        """All relations of its subject, by name."""
        return {item.name: item for item in self.knowledge.relations_of(self.spec.subject)}

    @property
    def fields(self) -> list[Field]:
        """Its JSON fields, required ones first."""
        every = [item for items in self.by_param.values() for item in items]
        return sorted(every, key=lambda item: not item.required)

    def path(self, relation: str) -> list[str | int]:
        """Where the value of a relation stands in a result."""
        if self.spec.kind != "lookup":
            return []
        named = "facts" in self.by_param
        return [*([0] if self.batch else []), *([relation] if named else [])]


def document(tool: Tool) -> ToolDocument:
    """The function-calling document of a tool."""
    return ToolDocument(
        name=tool.spec.name,
        description=_description(tool),
        parameters=schema_of(tool.fields, tool.spec.typing),
    )


_FORMS = {"date": "as YYYY-MM-DD", "point": "as latitude and longitude in decimal degrees"}


def _description(tool: Tool) -> str:
    spec = tool.spec
    if spec.kind in KINDS:
        return _computing(spec)
    kind = tool.knowledge.types[spec.subject]
    one, many = kind.name.replace("_", " "), kind.plural.replace("_", " ")
    found = [tool.relations[name] for name in spec.relations]
    labels = [item.label for item in found]
    if spec.kind == "lookup":
        forms = [
            f"{item.label} {_FORMS.get(item.object) or 'in ' + item.unit}"
            for item in found
            if item.object in _FORMS or item.unit
        ]
        form = f" Given are: {'; '.join(forms)}." if forms and len(found) > 1 else ""
        if forms and len(found) == 1:
            form = f" It is given {_FORMS.get(found[0].object) or 'in ' + found[0].unit}."
        several = f"each of several {many}" if tool.batch else _a(one)
        result = " Gives an object with the facts asked for" if "facts" in tool.by_param else ""
        if tool.batch:
            result = f"{result}, for" if result else " Gives a list with one result for"
            result += f" each of the {many} in their order"
        form += f"{result}." if result else ""
        if len(found) == 1:
            return f"Looks up the {labels[0]} of {several}.{form}"
        return f"Looks up facts about {several}: {_listed(labels)}.{form}"
    if spec.kind == "find":
        some = " Only what is required needs to be given." if spec.operations else ""
        return f"Finds the {one} with a given {_listed(labels)}.{some}"
    owner = found[0].object
    by = _listed(labels[1:], "or")
    if spec.kind == "rank":
        return f"Lists the {many} of {_a(owner)} in the order of their {by}, the highest first."
    return f"Counts the {many} of {_a(owner)} that reach a given {by}."


def _computing(spec: ToolSpec) -> str:
    what = KINDS[spec.kind].what
    if spec.kind != "aggregate":
        return what
    return (
        f"Computes the {_listed(list(spec.operations), 'or')} of numbers, rounded to two decimals."
    )


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeio" else f"a {word}"


def _listed(words: list[str], last: str = "and") -> str:
    return f"{', '.join(words[:-1])} {last} {words[-1]}" if len(words) > 1 else words[0]


def call(
    tool: Tool, step: PlannedCall, tools: Mapping[str, Tool], steps: Mapping[str, PlannedCall]
) -> ReferenceCall:
    """The reference call of a step.

    Args:
        tool: that the step uses.
        step: what is asked.
        tools: by step.
        steps: by id.
    """

    def resolved(value: Any) -> Any:
        if isinstance(value, dict) and FROM in value:
            source = value[FROM]
            path = tools[source].path(steps[source].relations[0] if steps[source].relations else "")
            return {FROM: source, "path": path} if path else {FROM: source}
        if isinstance(value, dict):
            return {name: resolved(item) for name, item in value.items()}
        return [resolved(item) for item in value] if isinstance(value, list) else value

    values = {name: resolved(value) for name, value in _values(tool, step).items()}
    values |= {name: DEMANDED[name] for name in tool.spec.demanded}
    params = [*tool.core, *tool.options]
    made = arguments(params, tool.by_param, values, tool.spec.typing, tool.batch)
    return ReferenceCall(sub_question=step.id, tool=tool.spec.name, arguments=made)


def _values(tool: Tool, step: PlannedCall) -> dict[str, Any]:
    spec, names = tool.spec, {param.name for param in tool.core}
    values = dict(step.inputs)
    if "entity" in values:
        owner = tool.core[0].name
        values[owner] = values.pop("entity")
    if spec.kind == "find":
        values = {parameter_name(name): value for name, value in values.items()}
    if spec.kind == "lookup":
        values |= {"fact": step.relations[0]} if "fact" in names else {}
        values |= {"facts": [step.relations[0]]} if "facts" in names else {}
    elif spec.kind in ("rank", "count"):
        by = "sort_by" if spec.kind == "rank" else "measure"
        values |= {by: step.relations[1]} if by in names else {}
    elif "operation" in names:
        values["operation"] = step.operation
    return values
