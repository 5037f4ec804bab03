"""A model server that plays what it is told, and what a good model replies, by hand."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from toolgym._util.jsonl import read_rows
from toolgym.envs.toolscenario.authors.llm.author import EndpointAuthor
from toolgym.envs.toolscenario.compiler.pipeline import compile_scenarios, make_author
from toolgym.envs.toolscenario.records import Question
from toolgym.scenario import Levels

pytest.importorskip("aiohttp")

KEY = "sk-test-0123456789abcdefghijkl"
STAGES = ("decomposition", "documents", "integration", "scaling", "deployment")


def parameters(*required: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **more}


def sub(name: str, question: str, answer: str, *needs: str) -> dict[str, Any]:
    return {"id": name, "question": question, "answer": answer, "needs": list(needs)}


def call(name: str, tool: str, **arguments: Any) -> dict[str, Any]:
    return {"sub_question": name, "tool": tool, "arguments": arguments}


def tool(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "description": description, "parameters": schema}


def documented(document: dict[str, Any], name: str, **arguments: Any) -> dict[str, Any]:
    return {**document, "sub_question": name, "arguments": arguments}


def sources(**functions: str) -> dict[str, Any]:
    return {"functions": [{"name": n, "source": s} for n, s in functions.items()]}


MELTING = tool(
    "get_melting_point",
    "Gives the melting point of a chemical element as a number, in the unit asked for.",
    parameters(
        "element",
        element=text("English name of the element"),
        unit=text("Unit of the result", enum=["celsius", "kelvin"], default="celsius"),
    ),
)
MELTING_SCALED = tool(
    "get_element_property",
    "Gives a property of a chemical element as a number.",
    parameters(
        *("element", "property"),
        element=text("English name of the element"),
        property=text("Which property", enum=["melting_point", "boiling_point"]),
        unit=text("Unit of temperatures", enum=["celsius", "kelvin"], default="celsius"),
        decimals={"type": "integer", "minimum": 0, "maximum": 4, "description": "Rounding"},
    ),
)
DENSITY = tool(
    "get_element_density",
    "Gives the density of a chemical element in grams per cubic centimetre.",
    parameters("element", element=text("English name of the element")),
)
MELTING_SOURCE = '''
TABLE = {
    "gallium": {"melting_point": 29.76, "boiling_point": 2204.0},
    "indium": {"melting_point": 156.6, "boiling_point": 2072.0},
    "caesium": {"melting_point": 28.44, "boiling_point": 671.0},
}


def get_element_property(element, property, unit="celsius", decimals=2):
    """Look a property up."""
    if not isinstance(element, str) or element.strip().lower() not in TABLE:
        return {"error": "unknown element: give an English name in the table of this tool"}
    row = TABLE[element.strip().lower()]
    if property not in row:
        return {"error": "property must be melting_point or boiling_point"}
    if unit not in ("celsius", "kelvin"):
        return {"error": "unit must be celsius or kelvin"}
    if not isinstance(decimals, int) or not 0 <= decimals <= 4:
        return {"error": "decimals must be a whole number from 0 to 4"}
    value = row[property] + (273.15 if unit == "kelvin" else 0)
    return round(value, decimals)
'''
DENSITY_SOURCE = """
def get_element_density(element):
    table = {"iron": 7.874, "copper": 8.96}
    if not isinstance(element, str) or element.strip().lower() not in table:
        return {"error": "unknown element"}
    return table[element.strip().lower()]
"""
GALLIUM = {
    "decomposition": {
        "sub_questions": [sub("q1", "What is the melting point of gallium?", "29.76")],
        "combination": {"rule": "last", "of": ["q1"]},
        "answer": "29.76",
    },
    "documents": {"tools": [documented(MELTING, "q1", element="gallium")]},
    "scaling": {
        "plan": "one more property, an enumeration, a rounding, one near miss",
        "tools": [MELTING_SCALED],
        "calls": [call("q1", MELTING_SCALED["name"], element="gallium", property="melting_point")],
        "distractors": [DENSITY],
    },
    "deployment": sources(get_element_property=MELTING_SOURCE, get_element_density=DENSITY_SOURCE),
}

DEPTH = tool(
    "get_lake_depth",
    "Gives the greatest depth of a lake as a text in metres.",
    parameters("lake", lake=text("Name of the lake, without the word lake")),
)
DEPTH_TWIN = DEPTH | {"name": "look_up_lake_depth"}
DEPTH_SOURCE = """
def get_lake_depth(lake):
    table = {"como": 410, "garda": 346, "maggiore": 372, "iseo": 251}
    if not isinstance(lake, str) or lake.strip().lower() not in table:
        return {"error": "unknown lake; give the name without the word lake"}
    return f"{table[lake.strip().lower()]} m"
"""
LAKES = {
    "decomposition": {
        "sub_questions": [
            sub("q1", "How deep is Lake Como?", "410 m"),
            sub("q2", "How deep is Lake Garda?", "346 m"),
        ],
        "combination": {"rule": "first_maximum", "of": ["q1", "q2"], "labels": ["Como", "Garda"]},
        "answer": "Como",
    },
    "documents": {
        "tools": [
            documented(DEPTH, "q1", lake="Como"),
            documented(DEPTH_TWIN, "q2", lake="Garda"),
        ]
    },
    "integration": {
        "merges": [
            {
                "replaces": ["get_lake_depth", "look_up_lake_depth"],
                "tool": DEPTH,
                "calls": [
                    {"sub_question": "q1", "arguments": {"lake": "Como"}},
                    {"sub_question": "q2", "arguments": {"lake": "Garda"}},
                ],
            }
        ]
    },
    "scaling": {
        "tools": [
            tool(
                "get_lake_depth",
                "Gives the greatest depth of a lake as a text, in metres or in feet.",
                parameters(
                    "lake",
                    lake=text("Name of the lake, without the word lake"),
                    unit=text("Unit of the result", enum=["m", "ft"], default="m"),
                ),
            )
        ],
        "calls": [
            call("q1", "get_lake_depth", lake="Como"),
            call("q2", "get_lake_depth", lake="Garda"),
        ],
        "distractors": [
            tool(
                "get_lake_area",
                "Gives the surface of a lake in square kilometres.",
                parameters("lake", lake=text("Name of the lake")),
            )
        ],
    },
    "deployment": sources(
        get_lake_depth=DEPTH_SOURCE.replace("(lake):", '(lake, unit="m"):').replace(
            "    return f",
            '    if unit not in ("m", "ft"):\n        return {"error": "unit is m or ft"}\n'
            '    if unit == "ft":\n        feet = table[lake.strip().lower()] / 0.3048\n'
            '        return f"{feet:.0f} ft"\n'
            "    return f",
        ),
        get_lake_area="""
def get_lake_area(lake):
    table = {"lugano": 48.7, "orta": 18.2}
    if not isinstance(lake, str) or lake.strip().lower() not in table:
        return {"error": "unknown lake"}
    return table[lake.strip().lower()]
""",
    ),
}

BOOK = tool(
    "find_book",
    "Finds a novel by its title and gives an object with its title and its author.",
    parameters("title", title=text("English title")),
)
BIRTHPLACE = tool(
    "get_birthplace",
    "Gives the place where a person was born.",
    parameters("person", person=text("Full name")),
)
BOOK_SOURCE = """
def find_book(title):
    books = {"the tin drum": "Günter Grass", "effi briest": "Theodor Fontane"}
    if not isinstance(title, str) or title.strip().lower() not in books:
        return {"error": "no such novel; give its English title"}
    return {"title": title.strip(), "author": books[title.strip().lower()]}
"""
BIRTHPLACE_SOURCE = """
def get_birthplace(person):
    places = {"günter grass": "Danzig", "theodor fontane": "Neuruppin"}
    if not isinstance(person, str) or person.strip().lower() not in places:
        return {"error": "nobody of that name is known"}
    return places[person.strip().lower()]
"""
DRUM = {
    "decomposition": {
        "sub_questions": [
            sub("q1", "Who wrote The Tin Drum?", "Günter Grass"),
            sub("q2", "Where was #q1 born?", "Danzig", "q1"),
        ],
        "combination": {"rule": "last", "of": ["q2"]},
        "answer": "Danzig",
    },
    "documents": {
        "tools": [
            documented(BOOK, "q1", title="The Tin Drum"),
            documented(BIRTHPLACE, "q2", person={"$from": "q1", "path": ["author"]}),
        ]
    },
    "integration": {"plan": "a book and a person: different work", "merges": []},
    "scaling": {
        "tools": [
            tool(
                BOOK["name"],
                "Finds a novel or a play by its title; gives an object with title and author.",
                parameters(
                    "title",
                    title=text("English title"),
                    kind=text("Kind of work", enum=["novel", "play"], default="novel"),
                ),
            ),
            tool(
                BIRTHPLACE["name"],
                "Gives the place where a person was born or has died.",
                parameters(
                    "person",
                    person=text("Full name"),
                    event=text("Which event", enum=["birth", "death"], default="birth"),
                ),
            ),
        ],
        "calls": [
            call("q1", "find_book", title="The Tin Drum"),
            call("q2", "get_birthplace", person={"$from": "q1", "path": ["author"]}),
        ],
        "distractors": [
            tool(
                "get_publisher",
                "Gives the first publisher of a novel.",
                parameters("title", title=text("English title")),
            )
        ],
    },
    "deployment": sources(
        find_book=BOOK_SOURCE.replace("(title):", '(title, kind="novel"):').replace(
            "    if not",
            '    if kind != "novel":\n        return {"error": "no plays are known"}\n    if not',
        ),
        get_birthplace=BIRTHPLACE_SOURCE.replace("(person):", '(person, event="birth"):').replace(
            "    if not",
            '    if event != "birth":\n        return {"error": "no deaths are known"}\n    if not',
        ),
        get_publisher="""
def get_publisher(title):
    return {"error": f"no publisher of {str(title)[:40]!r} is known"}
""",
    ),
}

COMPOSER = tool(
    "get_composer",
    "Gives the composer of an opera.",
    parameters("opera", opera=text("Title of the opera")),
)
BIRTH_YEAR = tool(
    "get_birth_year",
    "Gives the year in which a composer was born, as a number.",
    parameters("composer", composer=text("Full name")),
)
OPERAS = {
    "decomposition": {
        "sub_questions": [
            sub("q1", "Who composed Carmen?", "Georges Bizet"),
            sub("q2", "Who composed Aida?", "Giuseppe Verdi"),
            sub("q3", "In which year was #q1 born?", "1838", "q1"),
            sub("q4", "In which year was #q2 born?", "1813", "q2"),
        ],
        "combination": {"rule": "difference", "of": ["q3", "q4"]},
        "answer": "25",
    },
    "documents": {
        "tools": [
            documented(COMPOSER, "q1", opera="Carmen"),
            documented(COMPOSER | {"name": "composer_of"}, "q2", opera="Aida"),
            documented(BIRTH_YEAR, "q3", composer={"$from": "q1"}),
            documented(BIRTH_YEAR | {"name": "birth_year_of"}, "q4", composer={"$from": "q2"}),
        ]
    },
    "integration": {
        "merges": [
            {
                "replaces": ["get_composer", "composer_of"],
                "tool": COMPOSER,
                "calls": [
                    {"sub_question": "q1", "arguments": {"opera": "Carmen"}},
                    {"sub_question": "q2", "arguments": {"opera": "Aida"}},
                ],
            },
            {
                "replaces": ["get_birth_year", "birth_year_of"],
                "tool": BIRTH_YEAR,
                "calls": [
                    {"sub_question": "q3", "arguments": {"composer": {"$from": "q1"}}},
                    {"sub_question": "q4", "arguments": {"composer": {"$from": "q2"}}},
                ],
            },
        ]
    },
    "scaling": {
        "tools": [
            tool(
                "get_composer",
                "Gives the composer of an opera or a ballet.",
                parameters(
                    "opera",
                    opera=text("Title of the work"),
                    kind=text("Kind of work", enum=["opera", "ballet"], default="opera"),
                ),
            ),
            tool(
                "get_birth_year",
                "Gives the year in which a composer or a singer was born, as a number.",
                parameters(
                    "composer",
                    composer=text("Full name"),
                    profession=text(
                        "What the person did", enum=["composer", "singer"], default="composer"
                    ),
                ),
            ),
        ],
        "calls": [
            call("q1", "get_composer", opera="Carmen"),
            call("q2", "get_composer", opera="Aida"),
            call("q3", "get_birth_year", composer={"$from": "q1"}),
            call("q4", "get_birth_year", composer={"$from": "q2"}),
        ],
        "distractors": [
            tool(
                "get_opera_language",
                "Gives the language in which an opera was written.",
                parameters("opera", opera=text("Title of the opera")),
            )
        ],
    },
    "deployment": sources(
        get_composer="""
def get_composer(opera, kind="opera"):
    known = {"carmen": "Georges Bizet", "aida": "Giuseppe Verdi", "faust": "Charles Gounod"}
    if kind != "opera":
        return {"error": "no ballets are known"}
    if not isinstance(opera, str) or opera.strip().lower() not in known:
        return {"error": "no such opera"}
    return known[opera.strip().lower()]
""",
        get_birth_year="""
def get_birth_year(composer, profession="composer"):
    years = {"georges bizet": 1838, "giuseppe verdi": 1813, "charles gounod": 1818}
    if profession != "composer":
        return {"error": "no singers are known"}
    if not isinstance(composer, str) or composer.strip().lower() not in years:
        return {"error": "nobody of that name is known"}
    return years[composer.strip().lower()]
""",
        get_opera_language="""
def get_opera_language(opera):
    return {"error": "no language of that opera is known"}
""",
    ),
}

Q_GALLIUM = "At how many degrees Celsius does gallium melt?"
Q_LAKES = "Which of the lakes Como and Garda is deeper?"
Q_DRUM = "In which city was the author of The Tin Drum born?"
Q_OPERAS = "How many years lie between the births of the composers of Carmen and Aida?"
GOOD: dict[str, dict[str, Any]] = {
    Q_GALLIUM: GALLIUM,
    Q_LAKES: LAKES,
    Q_DRUM: DRUM,
    Q_OPERAS: OPERAS,
}
QUESTIONS = [
    {"id": "gallium", "question": Q_GALLIUM, "answer": 29.76, "split": "train"},
    {"id": "lakes", "question": Q_LAKES, "answers": ["Lake Como", "Como"]},
    {"id": "drum", "question": Q_DRUM, "answer": "Danzig", "split": "test"},
    {"id": "operas", "question": Q_OPERAS},
]


Answer = Callable[[BaseHTTPRequestHandler], None]


def says(reply: Any, finish: str = "stop") -> Answer:
    """A completion with this text, or with this value as JSON."""
    content = reply if isinstance(reply, str) else json.dumps(reply)
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant"}}
    choice["message"]["content"] = content  # type: ignore[index]
    usage = {"prompt_tokens": 100, "completion_tokens": len(content) // 4, "total_tokens": 1}
    return sends({"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage})


def sends(body: Any, status: int = 200) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def floods(handler: BaseHTTPRequestHandler) -> None:
    """Text without end, as fast as it is taken."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    handler.close_connection = True
    piece = b"and on and on " * 4096
    try:
        handler.wfile.write(b'{"choices": [{"message": {"content": "')
        while True:
            handler.wfile.write(piece)
    except OSError:
        pass  # the client has gone, as it should


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def half(handler: BaseHTTPRequestHandler) -> None:
    """The connection is cut in the middle of the body."""
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.wfile.flush()
    hangs_up(handler)


def hangs(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.2)
    handler.close_connection = True


def stage_of(body: dict[str, Any]) -> tuple[str, str]:
    """The question and the stage that a request is about; ("", "") for a trivial one."""
    prompt = body["messages"][0]["content"]
    _, found, material = prompt.partition("\nMATERIAL:\n")
    if not found:
        return "", ""
    number = int(prompt.partition("\nSTAGE ")[2][0])
    return json.loads(material)["question"], STAGES[number - 1]


class Model:
    """A scripted model behind a real server.

    ``script[question, stage]`` are answers in order of different conversations, the last for ever;
    ``troubles`` are answers of the server that come before these, each once. Without a script the
    reply is that of ``GOOD``.
    """

    def __init__(self) -> None:
        self.script: dict[tuple[str, str], list[Answer]] = {}
        self.troubles: dict[tuple[str, str], list[Answer]] = {}
        self.always: Answer | None = None
        self.delay = 0.0
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.began = threading.Event()
        self._seen: dict[tuple[str, str], list[str]] = {}
        self._lock = threading.Lock()
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = model.answer(body, self.headers.get("Authorization", ""))
                time.sleep(model.delay)
                try:
                    answer(self)
                except OSError:
                    self.close_connection = True  # the client was killed

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                """Connections are cut here on purpose."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, body: dict[str, Any], key: str) -> Answer:
        with self._lock:
            self.bodies.append(body)
            self.keys.append(key)
            self.began.set()
            if self.always is not None:
                return self.always
            where = stage_of(body)
            if not where[0]:
                return says("OK")
            troubles = self.troubles.get(where)
            if troubles:
                return troubles.pop(0)
            seen = self._seen.setdefault(where, [])
            said = json.dumps(body["messages"])
            if said not in seen:
                seen.append(said)
            answers = self.script.get(where) or [says(GOOD[where[0]][where[1]])]
            return answers[min(seen.index(said), len(answers) - 1)]

    def asked(self) -> Counter[str]:
        """How often each request came; the seed tells a second try of the same words apart."""
        return Counter(json.dumps([body["messages"], body.get("seed")]) for body in self.bodies)

    def end(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def author_for(model: Model, questions: Path, **options: Any) -> EndpointAuthor:
    options = {"timeout": 20.0, "sandbox_timeout": 2.0, **options}
    return EndpointAuthor(model.url, str(questions), "scripted", **options)


def build(model: Model, questions: Path, out: Path, **options: Any) -> dict[str, Any]:
    author = make_author(
        "endpoint",
        {
            "base_url": model.url,
            "model": "scripted",
            "questions": str(questions),
            "sandbox_timeout": 2.0,
            **options,
        },
        out,
    )
    levels = Levels(
        functional_generalisation=1,
        parameter_expansion=1,
        type_generalisation=1,
        toolset_extension=1,
    )
    return compile_scenarios(author, out, 100, 0, levels=levels, workers=3).to_row()


def rows(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def first(author: EndpointAuthor) -> Question:
    return next(iter(author.questions(1)))
