"""Goals over a state: predicates, harm, rules, and what people write wrongly."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolgym import Task, Trajectory
from toolgym._util.differences import difference
from toolgym.envs.toolscenario.authors.stateful.writing import goal_of
from toolgym.errors import BadInputError
from toolgym.grading.states import Goal, standings
from toolgym.messages import ToolCall, ToolResult
from toolgym.rewards.state import goal_reached, no_harm, state_progress
from toolgym.trajectory import Step

SHOP: dict[str, Any] = {
    "customers": {"C-1": {"name": "Ada", "plan": "gold"}, "C-2": {"name": "Bo", "plan": "basic"}},
    "orders": {
        "O-1": {"customer": "C-1", "status": "open", "pieces": 3, "tags": ["red"]},
        "O-2": {"customer": "C-2", "status": "open", "pieces": 7, "tags": []},
    },
}
LINKS = {"orders.customer": "customers", ".order_id": "orders"}


def hits(where: dict[str, Any]) -> list[str]:
    goal, orders = Goal(links=LINKS), SHOP["orders"]
    return [key for key, row in orders.items() if goal.matches(SHOP, "orders", key, row, where)]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ({}, ["O-1", "O-2"]),
        ({"id": "O-2"}, ["O-2"]),
        ({"pieces": {"at_least": 4}}, ["O-2"]),
        ({"pieces": {"at_most": 7, "at_least": 3}}, ["O-1", "O-2"]),
        ({"pieces": {"at_least": "3"}}, []),
        ({"pieces": True}, []),
        ({"status": {"not": "open"}}, []),
        ({"status": {"one_of": ["open", "held"]}}, ["O-1", "O-2"]),
        ({"tags": {"has": "red"}}, ["O-1"]),
        ({"customer.plan": "gold"}, ["O-1"]),
        ({"customer.id": "C-2"}, ["O-2"]),
        ({"customer.plan.more": "gold"}, []),
        ({"nothing": {"not": 3}}, []),
    ],
)
def test_conditions(where: dict[str, Any], found: list[str]) -> None:
    assert hits(where) == found


def played(*states: dict[str, Any], calls: dict[int, tuple[str, Any]] | None = None) -> Trajectory:
    record, before = Trajectory(Task("t", "?", ("x",))), SHOP
    for number, state in enumerate(states):
        name, arguments = (calls or {}).get(number, ("tool", {}))
        call, result = ToolCall("c", name, arguments), ToolResult("c", "ok")
        diff = tuple(difference(before, state))
        record.steps.append(Step("a", (call,), (result,), state_diff=diff))
        before = state
    record.state = copy.deepcopy(before)
    return record


def changed(*edits: tuple[str, str, Any]) -> dict[str, Any]:
    state = copy.deepcopy(SHOP)
    for table, key, row in edits:
        if row is None:
            del state[table][key]
        else:
            state[table][key] = {**state[table].get(key, {}), **row}
    return state


def rewards(goal: dict[str, Any], record: Trajectory) -> tuple[list[float], ...]:
    record.task = task = Task("t", "?", ("x",), {"goal": {"links": LINKS, **goal}})
    return (
        goal_reached(task, record),
        state_progress(task, record),
        no_harm(task, record),
    )


CANCEL = {"table": "orders", "where": {"id": "O-1", "status": "cancelled"}}
PLACE = {"table": "orders", "where": {"customer": "C-2", "status": "open", "pieces": 1}}
BOTH = {"reach": [CANCEL, PLACE]}
PLACED = {"customer": "C-2", "status": "open", "pieces": 1, "tags": []}


def test_a_goal_is_paid_where_it_is_reached_and_taken_back_where_it_is_left() -> None:
    half = changed(("orders", "O-1", {"status": "cancelled"}))
    full = changed(("orders", "O-1", {"status": "cancelled"}), ("orders", "O-3", PLACED))
    reached, progress, harm = rewards(BOTH, played(half, full, SHOP, full))
    assert reached == [0.0, 1.0, -1.0, 1.0]
    assert progress == [0.5, 0.5, -1.0, 1.0]
    assert harm == [0.0] * 4


@pytest.mark.parametrize(
    "other",
    [
        ("orders", "O-2", {"status": "cancelled"}),
        ("orders", "O-2", None),
        ("orders", "O-1", {"pieces": 9}),
        ("orders", "O-4", PLACED),
        ("customers", "C-9", {"name": "Cy"}),
    ],
)
def test_whatever_else_is_changed_is_harm(other: tuple[str, str, Any]) -> None:
    full = [("orders", "O-1", {"status": "cancelled"}), ("orders", "O-3", PLACED)]
    clean, spoilt = changed(*full), changed(*full, other)
    reached, progress, harm = rewards(BOTH, played(spoilt, clean))
    assert (reached, harm) == ([0.0, 1.0], [-1.0, 1.0])
    assert progress[0] < 1.0 == sum(progress)
    loose = goal_reached(Task("t", "?", ("x",), {"goal": BOTH}), played(spoilt), strict=False)
    assert loose == [float(other[1] != "O-4")]


def test_states_of_other_shapes_have_goals_too() -> None:
    begin = {"balance": 5, "cart": {"apple": 1}, "log": ["begun"], "user": {"at": {"city": "Orsk"}}}
    goal = {
        "reach": [
            {"table": "", "where": {"balance": 3}},
            {"table": "cart", "where": {"id": "apple", "value": 2}},
            {"table": "cart", "where": {"id": "pear", "value": {"at_least": 1}}},
            {"table": "log", "where": {"value": "paid"}},
            {"table": "user", "where": {"id": "at", "city": "Kald"}},
        ]
    }
    end = {
        "balance": 3,
        "cart": {"apple": 2, "pear": 4},
        "log": ["begun", "paid"],
        "user": {"at": {"city": "Kald"}},
    }

    def last(state: dict[str, Any], wanted: dict[str, Any] = goal) -> Any:
        step = Step("a", state_diff=tuple(difference(begin, state)))
        return Goal.from_row(wanted).standings([begin, state], [step])[-1]

    assert last(end).reached
    for other in (
        {**end, "tax": 1},
        {**end, "cart": {**end["cart"], "plum": 1}},  # type: ignore[dict-item]
        {**end, "log": ["begun", "paid", "more"]},
        {**end, "user": {"at": {"city": "Kald", "street": "A"}}},
        {**end, "notes": {"1": "x"}},
    ):
        assert last(other).met == 5
        assert last(other).harm == 1
    nested = {"reach": [{"table": "user", "where": {"id": "at", "city": "Kald"}}]}
    assert last({**begin, "user": {"at": {"city": "Kald"}}}, nested).reached
    deep = {"reach": [{"table": "", "where": {"balance": 5}}, {"table": "user", "where": {}}]}
    assert last({**begin, "log": []}, deep).harm == 1
    rule = {"table": "", "before": {}, "after": {"balance": {"at_most": -1}}, "text": "no debts"}
    assert last({**end, "balance": -2}, {**goal, "rules": [rule]}).broken == 1


RULES = [
    {"table": "orders", "before": {"customer.plan": "gold"}, "after": {"status": "refunded"}},
    {"call": "drop", "arguments": {"order_id.pieces": {"at_least": 5}}},
]


def test_a_broken_rule_is_not_mended() -> None:
    goal = {"reach": [CANCEL], "rules": RULES}
    way, end = (
        changed(("orders", "O-1", {"status": "refunded"})),
        changed(("orders", "O-1", {"status": "cancelled"})),
    )
    assert rewards(goal, played(end))[0] == [1.0]
    reached, progress, harm = rewards(goal, played(way, end))
    assert (reached, progress, harm) == ([0.0, 0.0], [-1.0, 1.0], [-1.0, 0.0])
    other = changed(("orders", "O-2", {"status": "refunded"}))  # not of a gold customer
    assert standings_of(goal, played(other, SHOP))[-1].broken == 0
    for order, broken in (("O-1", 0), ("O-2", 1), ("O-9", 0)):
        record = played(SHOP, calls={0: ("drop", {"order_id": order})})
        assert standings_of(goal, record)[-1].broken == broken


def standings_of(goal: dict[str, Any], record: Trajectory) -> Any:
    return standings(Task("t", "?", ("x",), {"goal": {"links": LINKS, **goal}}), record)


def test_a_failed_call_breaks_no_rule_and_invariants_are_harm() -> None:
    record = played(SHOP, calls={0: ("drop", {"order_id": "O-2"})})
    step = record.steps[0]
    step.results = (ToolResult("c", "Error", "tool_error"),)
    assert standings_of({"reach": [CANCEL], "rules": RULES}, record)[-1].broken == 0
    invariants = [{"table": "orders", "where": {"pieces": {"at_most": -1}}}]
    goal = {"reach": [{"table": "orders", "where": {"id": "O-1", "pieces": -1}}]}
    bad = changed(("orders", "O-1", {"pieces": -1}))
    assert rewards(goal, played(bad))[0] == [1.0]
    assert rewards(goal | {"invariants": invariants}, played(bad))[0] == [0.0]


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("all of it", "is an object of predicates"),
        ({"reched": []}, "did you mean 'reach'"),
        ({"reach": {}}, None),
        ({"reach": [{"where": {}}]}, "reach[0] is not a predicate with a table"),
        ({"reach": [{"table": "orders"}]}, "reach[0] lacks 'where'"),
        ({"reach": [{"table": "orders", "where": [1]}]}, "is a condition"),
        ({"reach": [{"table": "o", "where": {"n": {"at_leest": 1}}}]}, "did you mean 'at_least'"),
        ({"reach": [{"table": "o", "where": {}, "count": "1"}]}, "count is a number"),
        ({"reach": [{"table": "o", "were": {}}]}, "did you mean 'where'"),
        ({"rules": [{"table": 3}]}, "is a string"),
        ({"reach": [{"table": "o", "where": {"n": {"one_of": "ab"}}}]}, "one_of is a list"),
        ({"links": []}, None),
    ],
)
def test_what_people_write_wrongly_is_said_in_a_line(goal: Any, said: str | None) -> None:
    if said is None:
        Goal.from_row(goal)
        return
    with pytest.raises(BadInputError) as caught:
        Goal.from_row(goal)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_task_without_a_goal_and_an_episode_without_a_state_are_refused() -> None:
    with pytest.raises(BadInputError, match="has no goal over a state"):
        goal_reached(Task("t", "?", ("x",)), played(SHOP))
    record = played(SHOP)
    record.state = None
    record.steps = []
    with pytest.raises(BadInputError, match="has no state of tables"):
        goal_reached(Task("t", "?", ("x",), {"goal": BOTH}), record)


ROWS = st.dictionaries(st.sampled_from("abc"), st.sampled_from([0, 1, True, "x"]), min_size=1)
TABLES = st.fixed_dictionaries(
    {name: st.dictionaries(st.sampled_from("pqrs"), ROWS, max_size=4) for name in ("t", "u")}
)


@given(TABLES, TABLES)
def test_the_goal_of_two_states_holds_in_the_second_alone(
    before: dict[str, Any], after: dict[str, Any]
) -> None:
    def same_rows(state: dict[str, Any]) -> dict[str, Any]:
        """Without rows that a state could hold twice: those have no goal of their own."""
        return {n: {k: {**r, "key": k} for k, r in t.items()} for n, t in state.items()}

    before, after = same_rows(before), same_rows(after)
    for name, table in after.items():  # a row that stays keeps its fields
        for key, row in table.items():
            table[key] = {**before[name].get(key, {}), **row}
    reach = goal_of(before, after)
    goal = Goal(tuple(reach))
    step = Step("a", state_diff=tuple(difference(before, after)))
    first, last = goal.standings([before, after], [step])
    assert last.reached
    assert first.reached == (not reach)
    assert first.met == first.harm == last.harm == 0
