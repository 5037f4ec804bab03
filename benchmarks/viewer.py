"""The page of `toolgym view --html` in a real browser: how fast, whether right, whether it is safe.

``make browser`` runs it with a Chromium and its chromedriver on the path. It writes pages and
screenshots to ``--out``, and ends with an error where something is not as it should be:

- 10 000 episodes: opened, searched, filtered, sorted, one of them reached by its link;
- the conditions of the page against those of `toolgym.select`, episode by episode;
- hostile texts in every place of a record: nothing of them runs, nothing is fetched;
- the test of two runs: the p of `toolgym.compare`; the tasks that changed come first;
- training rows, scenarios and worlds, at 1280 and 400 pixels, light and dark.

With ``TOOLGYM_DATA`` (docs/data.md) the episodes are those of 500 questions of PopQA, and what a
real model of 3 billion parameters wrote in 500 recorded episodes (Search-R1), 20 times; without it
those of the bundled sample.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import toolgym
from toolgym.data.conditions import condition
from toolgym.formats import get_format
from toolgym.messages import Message, ToolCall, ToolResult
from toolgym.task import Task
from toolgym.trajectory import Problem, Step, Tokens, Trajectory

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
READY = "document.documentElement.dataset.ready === '1'"
STATUS = "document.getElementById('status').textContent"
HOSTILE = (
    "<script>window.ran = 1</script>",
    "</script><script>window.ran = 2</script>",
    "<img src=x onerror='window.ran = 3'>",
    "<svg onload='window.ran = 4'>",
    "javascript:window.ran=5",
    "<a href='javascript:window.ran=6'>click</a>",
    "<!--<script>window.ran = 7",
    "]]></style><style>body{display:none}</style>",
    "'\"><iframe srcdoc='<script>parent.ran = 8</script>'></iframe>",
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css><meta http-equiv=refresh content='0;url=http://127.0.0.1:9'>",
    "{{script}} ${window.ran = 9} {{data}} __proto__ constructor",
    "\u202eevil\u2066\u0000\u0007\u001b[31m\u2028\u2029\ud800 half",
    "<form action=http://127.0.0.1:9><input name=a autofocus onfocus='window.ran = 10'></form>",
)


@contextmanager
def chromium(width: int = 1280, dark: bool = False, height: int = 860) -> Iterator[Any]:
    """A browser of its own, which remembers nothing."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    profile = tempfile.mkdtemp(prefix="toolgym-browser-")
    for option in (*OPTIONS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    try:
        yield browser
    finally:
        browser.quit()
        shutil.rmtree(profile, ignore_errors=True)


def until(browser: Any, script: str, most: float = 30.0) -> float:
    """Seconds until a condition holds in the page."""
    begun = time.perf_counter()
    while not browser.execute_script(f"return Boolean({script})"):
        if time.perf_counter() - begun > most:
            raise SystemExit(f"not within {most} s: {script}; the page says {said(browser)!r}")
        time.sleep(0.005)
    return time.perf_counter() - begun


def said(browser: Any) -> str:
    """The line under the tools of the page."""
    return str(browser.execute_script(f"return {STATUS}"))


def opened(browser: Any, page: Path, fragment: str = "") -> float:
    """Seconds until the page can be used."""
    browser.get("about:blank")
    begun = time.perf_counter()
    browser.get(page.resolve().as_uri() + fragment)
    until(browser, READY)
    return time.perf_counter() - begun


def typed(browser: Any, name: str, text: str, shown: str) -> float:
    """Seconds from an input to the line that tells what it found, as a person's keys would do."""
    begun = time.perf_counter()
    browser.execute_script(
        "const n = document.getElementById(arguments[0]); n.value = arguments[1];"
        "document.getElementById('status').textContent = '';"
        "n.dispatchEvent(new Event('input'));",
        name,
        text,
    )
    until(browser, f"{STATUS} && {STATUS}.includes({json.dumps(shown)})")
    return time.perf_counter() - begun


def speed(page: Path, word: str, episode: str) -> dict[str, float]:
    """Seconds of what a person does first, each in a browser that has just been opened."""
    found: dict[str, float] = {}
    with chromium() as browser:
        found["opened"] = opened(browser, page)
        total = said(browser).partition(" of ")[0]
        found["searched: the first results"] = typed(browser, "search", word, "")
        begun = time.perf_counter() - found["searched: the first results"]
        until(browser, f"{STATUS}.includes(' of ')")
        found["searched: all of them"] = time.perf_counter() - begun
        found["searched again"] = typed(browser, "search", word + "e", " of ")
        typed(browser, "search", "", f"{total} of {total}")
        found["filtered"] = typed(browser, "where", "accuracy<1 and calls>=1", " of ")
        typed(browser, "where", "", f"{total} of {total}")
        begun = time.perf_counter()
        browser.execute_script(
            "const s = document.getElementById('sort'); s.value = 'token_f1';"
            "document.getElementById('status').textContent = '';"
            "s.dispatchEvent(new Event('change'));"
        )
        until(browser, f"{STATUS}.includes(' of ')")
        found["sorted"] = time.perf_counter() - begun
        begun = time.perf_counter()
        browser.find_element(By.TAG_NAME, "body").send_keys("G")
        until(browser, "document.querySelector('#detail .turn')")
        found["the last one, by key"] = time.perf_counter() - begun
        complaints(browser)
    with chromium() as browser:
        begun = time.perf_counter()
        opened(browser, page, f"#e={episode.replace('#', '%23')}")
        until(browser, "document.querySelector('#detail .turn')")
        found["an episode by its link, page included"] = time.perf_counter() - begun
        link = browser.execute_script("return document.querySelector('#detail .id').textContent")
        assert link == episode, link
    return found


def complaints(browser: Any) -> None:
    """Whatever the browser wrote into its console is a fault."""
    lines = [line["message"] for line in browser.get_log("browser")]
    assert not lines, lines


CONDITIONS = (
    *("accuracy>=1", "accuracy<1 and calls<=1", "token_f1>0.2,answer_words<=3", "problems>=1"),
    *("execution_precision==1", "reward<0.5 and steps>1", "copied_words>=2 and  reply_words>20"),
    *("accuracy_paper==1 and exact_match==0", "reward>=1e0", "cut<=-.5", "calls>=1.", "nobody>1"),
    *("steps", "accuracy>=1 or calls>1", "accuracy=>1", "steps>=1.2.3", "goal_reached>=1"),
)


def conditions(page: Path, episodes: list[Trajectory]) -> int:
    """Whether the page and Python agree on conditions, also on those that cannot be read."""
    rng = random.Random(0)
    names = ("accuracy", "calls", "steps", "token_f1", "answer_words", "reply_words", "reward")

    def part() -> str:
        return rng.choice(names) + rng.choice((">=", "<=", "==", ">", "<")) + rng.choice(bounds)

    bounds = ("0", "0.5", "1", "2", "12")
    drawn = [" and ".join(part() for _ in range(rng.randint(1, 3))) for _ in range(60)]
    with chromium() as browser:
        opened(browser, page)
        for text in (*CONDITIONS, *drawn):
            try:
                holds = condition(text, episodes)
                wanted: str = f"{sum(map(holds, episodes)):,} of {len(episodes):,} episodes"
            except toolgym.errors.ToolgymError:
                typed(browser, "where", text, "")
                until(browser, "document.getElementById('where').classList.contains('wrong')")
                continue
            typed(browser, "where", text, wanted)
        complaints(browser)
    return len(CONDITIONS) + len(drawn)


def hostile_episodes() -> list[Trajectory]:
    """Episodes with hostile texts wherever a model, a tool or a data set can write."""
    found = []
    for number, text in enumerate(HOSTILE):
        call = ToolCall("call_0", text, {text: text, "__proto__": [text, {"constructor": text}]})
        result = ToolResult("call_0", text, text, detail=text, fault=text, shown=3)
        step = Step(
            text,
            calls=(call,),
            results=(result,),
            problems=(Problem(text, text),),
            answer=text,
            observation=text,
            reward_parts={text: 1.0},
            state_diff=({"path": [text, 0], "before": text, "after": {text: text}},),
            user=text,
            user_calls=(call,),
            user_results=(result,),
            appeared=({"type": "function", "function": {"name": text, "description": text}},),
        )
        last = Step(f"<think>{text}</think>{text}", answer=text, reward_parts={"accuracy": 0.0})
        episode = Trajectory(
            Task(text, text, (text,), {text: text}, text),
            [Message("system", text), Message("user", text), Message("assistant", text)],
            [step, last],
            [{"type": "function", "function": {"name": text, "parameters": {text: text}}}],
            env_id=text,
            format=text,
            sample=number,
            tokens=Tokens([1, 2], [3, 4, 5], [1, 0, 1], [-0.1, 0.0, -2.0], text),
            metrics={text: 0.5, "__proto__": 1.0},
            state={text: [text]},
        )
        found.append(episode)
    return found


def hostile(out: Path) -> int:
    """How many pages of hostile texts were opened, with everything unfolded, and did nothing."""
    episodes = hostile_episodes()
    page = out / "hostile.html"
    toolgym.view_html(episodes, page, title=HOSTILE[1] + HOSTILE[7] + "{{style}}")
    rows = out / "hostile.jsonl"
    with rows.open("w", encoding="utf-8") as stream:
        for text in HOSTILE:
            chats = [{"role": role, "content": text} for role in ("user", "assistant")]
            stream.write(json.dumps({"id": text, "messages": chats, text: text}) + "\n")
    both = out / "hostile-rows.html"
    toolgym.view_html(rows, both)
    two = out / "hostile-against.html"
    toolgym.view_html(episodes, two, against=episodes)
    for each in (page, both, two):
        with chromium() as browser:
            for place in range(len(HOSTILE)):
                opened(browser, each)
                browser.execute_script(f"document.querySelectorAll('#rows a')[{place}].click()")
                until(browser, "document.querySelector('#detail .id')")
                for _ in range(3):
                    browser.execute_script(
                        "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
                    )
                    time.sleep(0.02)
                typed(browser, "search", HOSTILE[place].split()[0], "")
                time.sleep(0.05)
                safe(browser)
            markup = quote("<img src=x onerror=window.ran=13>")
            fragment = f"#e={markup}&where={markup}&search={markup}&sort={markup}"
            opened(browser, each, fragment)
            safe(browser)
            # And the wall behind it: markup and script that got in all the same would not run.
            blocked = browser.execute_script(
                "const s = document.createElement('script');"
                "try { s.text = 'window.ran = 11'; document.body.append(s); } catch (e) {}"
                "try { document.body.innerHTML = '<img src=x onerror=\"window.ran = 12\">'; }"
                "catch (e) { return String(e); } return 'markup was taken';"
            )
            assert "TrustedHTML" in blocked, blocked
            assert browser.execute_script("return window.ran") is None
    return 3 * len(HOSTILE)


def safe(browser: Any) -> None:
    """Nothing ran, nothing was fetched, and no element is there that the page does not make."""
    assert browser.execute_script("return window.ran") is None
    fetched = browser.execute_script("return performance.getEntriesByType('resource').length")
    assert fetched == 0, fetched
    strange = browser.execute_script(
        "const all = (query) => [...document.querySelectorAll(query)];"
        "return all('img, svg, iframe, object, embed, link, base').length"
        " + all('a').filter((a) => !a.getAttribute('href').startsWith('#')).length"
        " + all('form').length - 1 + all('script').filter((s) => s.type === '').length - 1"
    )
    assert strange == 0, strange
    complaints(browser)


def recorded(folder: Path) -> list[Trajectory]:
    """What a real model wrote in the loop of Search-R1, as episodes of the format ``tags``."""
    codec, found = get_format("tags"), []
    for file in sorted(folder.glob("search-r1-*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found.append(_recorded(row, codec, file.stem.removeprefix("search-r1-")))
    return found


def _recorded(row: dict[str, Any], codec: Any, name: str) -> Trajectory:
    task = Task(f"{name}-{row['id']}", row["question"], tuple(row["answers"]))
    messages, steps = [Message("user", row["prompt"])], []
    rest = row["completion"]
    while rest:
        said, found, after = rest.partition("<information>")
        read, _, rest = after.partition("</information>")
        if not said.strip() and found:  # the model wrote the result itself, without a call
            said, found, read = f"<information>{read}", "", ""
        parsed = codec.parse(said)
        results = tuple(ToolResult(call.id, read.strip()) for call in parsed.calls)
        step = Step(
            said, parsed.calls, results, parsed.problems, parsed.answer, read if found else ""
        )
        steps.append(step)
        messages.append(Message("assistant", said))
        messages += [Message("user", read)] if found else []
    steps[-1].reward = row["scores"]["acc"]
    steps[-1].reward_parts = {name: float(value) for name, value in row["scores"].items()}
    steps[-1].cut = row["stop_reason"] == "length"
    ended = steps[-1].answer is not None
    return Trajectory(task, messages, steps, [], "Search-R1", "tags", ended, not ended)


def pictures(out: Path, pages: dict[str, tuple[Path, str]]) -> None:
    """Screenshots of an open item at two widths, in light and dark."""
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    for width, dark in ((1280, False), (1280, True), (400, False), (400, True)):
        with chromium(width, dark) as browser:
            for name, (page, keys) in pages.items():
                opened(browser, page)
                shot = f"{out / name}-{width}-{'dark' if dark else 'light'}"
                if width < 600:
                    browser.save_screenshot(f"{shot}-list.png")
                browser.execute_script("document.querySelector('#rows a').click()")
                until(browser, "document.querySelector('#detail .id')")
                browser.find_element(By.TAG_NAME, "body").send_keys(keys)
                time.sleep(0.2)
                assert browser.execute_script(wide) <= 0, f"{name} is too wide at {width}"
                browser.save_screenshot(f"{shot}.png")
            complaints(browser)


def keyboard(page: Path) -> None:
    """Keys as a person presses them, the way back, addresses, and what was searched for."""
    with chromium() as browser:
        opened(browser, page)
        body = browser.find_element(By.TAG_NAME, "body")
        body.send_keys("j")
        until(browser, "document.querySelector('#detail .id')")
        first = browser.find_element(By.CSS_SELECTOR, "#detail .id").text
        body.send_keys("j")
        until(browser, f"document.querySelector('#detail .id').textContent !== {json.dumps(first)}")
        body.send_keys("k")
        until(browser, f"document.querySelector('#detail .id').textContent === {json.dumps(first)}")
        body.send_keys("r")
        until(browser, "document.querySelector('details.think')?.open ?? true")
        body.send_keys("?")
        until(browser, "document.getElementById('keys').open")
        body.send_keys(Keys.ESCAPE)
        until(browser, "!document.getElementById('keys').open")
        body.send_keys("/")
        until(browser, "document.activeElement.id === 'search'")
        browser.switch_to.active_element.send_keys(Keys.ESCAPE)
        browser.back()
        until(browser, f"document.querySelector('#detail .id').textContent !== {json.dumps(first)}")
        opened(browser, page, "#where=accuracy%3C1&sort=reply_words")
        wrong = said(browser)
        for fragment, other in (("", True), ("where=accuracy%3C1&sort=reply_words", False)):
            browser.execute_script(f"location.hash = {json.dumps(fragment)}")
            until(browser, f"({STATUS} === {json.dumps(wrong)}) !== {json.dumps(other)}")
        title = browser.find_element(By.CSS_SELECTOR, "#rows a div").text
        typed(browser, "search", f'"{title.split()[0]}"', " of ")
        browser.execute_script("document.querySelector('#rows a').click()")
        until(browser, "document.querySelector('#detail mark')")
        complaints(browser)


def changed_first(page: Path, before: Any, after: Any) -> str:
    """Whether the page tells the test's own p, and lists what changed before all else."""
    tested = toolgym.compare(before, after)
    with chromium() as browser:
        opened(browser, page)
        cells = browser.execute_script(
            "return [...document.querySelectorAll('#compare tr')]"
            ".map((row) => [...row.cells].map((cell) => cell.textContent))"
        )
        assert cells[1:] == tested.table()[1], (cells, tested.table())
        kinds = browser.execute_script(
            "return [...document.querySelectorAll('#rows a')].map((row) => row.className)"
        )
        changed = ["gained" in kind or "lost" in kind for kind in kinds]
        assert changed == sorted(changed, reverse=True), kinds
        complaints(browser)
    return f"p {tested['accuracy'].p_value}, {tested.tasks} tasks"


def main() -> None:
    """Everything, in a folder."""
    parser = argparse.ArgumentParser(prog="python benchmarks/viewer.py")
    parser.add_argument("--out", type=Path, default=Path("build/browser/pages"))
    parser.add_argument("--episodes", type=int, default=10_000)
    asked = parser.parse_args()
    out: Path = asked.out
    out.mkdir(parents=True, exist_ok=True)
    data = Path(os.environ.get("TOOLGYM_DATA") or "none")
    real = (data / "popqa").is_dir()
    texts = {"tasks": f"{data}/popqa/dev.jsonl", "corpus": f"{data}/wikipedia/passages.jsonl"}
    run = toolgym.rollout(
        "ToolQA-PopQA-v0",
        "lookup",
        env_args=texts if real else {},
        episodes=asked.episodes,
        samples_per_task=-(-asked.episodes // (500 if real else 60)),
        out=out / "run",
    )
    page = out / "episodes.html"
    told("a policy of rules", page, run)
    report(speed(page, "photograph", next(iter(run)).id))
    shown = {"episodes": (page, "r")}
    few, tried = list(islice(run, 500)), page
    if real:
        few, tried = recorded(data / "recorded-runs"), out / "model.html"
        many = [replace(t, sample=n) for n in range(asked.episodes // len(few)) for t in few]
        told("a real model", tried, many)
        report(speed(tried, "photograph", many[-1].id))
        shown["model"] = tried, "r"
    toolgym.view_html(few, out / "few.html")
    print("conditions that agree:", conditions(out / "few.html", few))
    keyboard(out / "few.html")
    other = [replace(t, steps=[*t.steps[:-1], replace(t.steps[-1], answer="x")]) for t in few[::2]]
    other += few[1::2]
    toolgym.view_html(few, out / "against.html", against=other)
    print("against:", changed_first(out / "against.html", other, few))
    print("hostile items that did nothing:", hostile(out))
    toolgym.export(few, "sft", style="as_played", out=out / "sft.jsonl")
    toolgym.view_html(out / "sft.jsonl", out / "sft.html")
    shown |= {"against": (out / "against.html", ""), "rows": (out / "sft.html", "")}
    pictures(out, shown | {"hostile": (out / "hostile.html", "ri")})


def told(what: str, page: Path, source: Any) -> None:
    """Write a page, and print what it took."""
    begun = time.perf_counter()
    toolgym.view_html(source, page)
    count, size = len(source), page.stat().st_size
    seconds = time.perf_counter() - begun
    print(f"{what}: {count} in {seconds:.1f} s, {size:,} bytes, {size / count:.0f} bytes each")


def report(found: dict[str, float]) -> None:
    """Print figures."""
    for name, value in found.items():
        print(f"  {name:40} {value:8.3f} s")


if __name__ == "__main__":
    sys.exit(main())
