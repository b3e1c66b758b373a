"""The page at `/` in a real browser, and the figures behind it."""

import re
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect, sync_playwright

from rerank_plugins import Reranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import get, live, post

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
expect.set_options(timeout=30_000)  # on busy machines
browsing = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on the PATH")

QUERY = "who wrote Faust?"
PASSAGES = [
    "A fist is a hand.",
    "Goethe wrote Faust.",
    "<img src=x onerror='window.hit=1'><b>Faust</b> &amp; \U0001d54f",
]
KEY = "a-key-of-sixteen-or-more"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # Chromium's sandbox needs rights that containers rarely give.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def url(reranker: Reranker) -> Iterator[str]:
    pool = ModelPool.of({"bundled": reranker, "<b>other</b>": reranker})
    with live(create_app(ServerSettings(), pool=pool)) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """Yield a page that fails the test if the browser complains of anything while the server runs."""
    page = browser.new_page()
    page.set_default_timeout(30_000)
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    yield page
    found = list(complaints)
    page.close()  # which ends a request that is under way, and that is no complaint
    assert found == []


def fill(page: Page, query: str, passages: list[str]) -> None:
    page.get_by_label("Query").fill(query)
    page.get_by_label("Passages, one a line").fill("\n".join(passages))


@browsing
def test_the_box_shows_the_reranker_s_order_and_scores_and_text_stays_text(
    page: Page, url: str, reranker: Reranker
) -> None:
    page.goto(url)
    fill(page, QUERY, PASSAGES)
    # By keyboard alone.
    page.get_by_label("Query").press("Enter")
    items = page.locator("#results li")
    expect(items).to_have_count(3)
    ranking = reranker.rank(QUERY, PASSAGES)
    assert [item.locator("p").inner_text() for item in items.all()] == [ranked.text for ranked in ranking]
    assert [item.locator("b").inner_text() for item in items.all()] == [f"{r.score:.4f}" for r in ranking]
    widths = [
        item.locator(".bar span").evaluate("bar => parseFloat(bar.style.width)") for item in items.all()
    ]
    assert widths == pytest.approx([100 * (ranked.score or 0) for ranked in ranking], rel=1e-3)
    assert page.locator("#results img, #results p b, #model b, #models b").count() == 0
    assert page.evaluate("window.hit") is None
    assert page.locator(".cut").count() == 0
    assert page.locator("#model option").all_inner_texts() == ["bundled", "<b>other</b>"]


@browsing
def test_what_was_not_read_is_struck_out_where_the_model_stopped(
    page: Page, url: str, reranker: Reranker
) -> None:
    # A letter that JavaScript counts as two.
    long = "\U0001d54f " * 5 + "Goethe wrote Faust, and much more. " * 90
    page.goto(url)
    fill(page, QUERY, [long.strip(), "A fist is a hand."])
    page.get_by_role("button", name="Rank").click()
    expect(page.locator("#results li")).to_have_count(2)
    (pair,) = reranker.preview(QUERY, [long.strip()])
    assert pair.truncated
    assert page.locator(".unread").all_inner_texts() == [long.strip()[pair.passages[-1].end :]]
    expect(page.locator(".cut")).to_have_count(1)


@browsing
def test_charts_and_figures_move(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#state")).to_have_text("live")
    path = page.locator("path[data-series=documents]")
    still = path.get_attribute("d")
    expect(page.locator("#requests")).to_contain_text("0 in all")
    for _ in range(3):
        post(f"{url}/v1/rerank", json={"query": QUERY, "documents": PASSAGES})
    expect(page.locator("#requests")).to_contain_text("3 in all")
    expect(path).not_to_have_attribute("d", still or "")
    latency = page.get_by_role("img", name="Latency")
    latency.focus()
    latency.press("ArrowLeft")
    expect(latency).to_have_attribute("aria-label", re.compile("Latency, 6 s ago: median"))


@browsing
def test_it_says_when_the_server_is_gone(browser: Browser, reranker: Reranker) -> None:
    page = browser.new_page()
    with live(create_app(ServerSettings(), pool=ModelPool.of({"bundled": reranker}))) as url:
        page.goto(url)
        expect(page.locator("#state")).to_have_text("live")
    expect(page.locator("#state")).to_contain_text("no answer")
    page.close()


@browsing
def test_a_key_is_asked_for_once_and_opens_the_page(browser: Browser, reranker: Reranker) -> None:
    page = browser.new_page()
    app = create_app(ServerSettings(keys=(KEY,)), pool=ModelPool.of({"bundled": reranker}))
    with live(app) as url:
        page.goto(url)
        key = page.get_by_label("This server asks for a key")
        for given in ("wrong-key-of-sixteen", KEY):
            key.fill(given)
            key.press("Enter")
            if given != KEY:
                expect(page.get_by_role("alert").first).to_have_text("The server does not know this key.")
        expect(page.locator("#state")).to_have_text("live")
        expect(key).to_be_hidden()
        page.reload()
        page.get_by_role("button", name="Rank").click()
        expect(page.locator("#results li")).to_have_count(3)
        page.close()


@browsing
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_colour_schemes_can_be_read(browser: Browser, url: str, scheme: Any) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto(url)
    expect(page.locator("#state")).to_have_text("live")
    contrast = """selector => {
        const light = color => {
            const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(v => v / 255)
                .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        let place = document.querySelector(selector);
        const text = light(getComputedStyle(place).color);
        while (getComputedStyle(place).backgroundColor === "rgba(0, 0, 0, 0)") place = place.parentElement;
        const ground = light(getComputedStyle(place).backgroundColor);
        return (Math.max(text, ground) + 0.05) / (Math.min(text, ground) + 0.05);
    }"""
    for selector in (
        "h1",
        "#version",
        ".tiles dt",
        "td",
        "td li",
        "button",
        "label",
        ".time span",
        "textarea",
    ):
        assert page.evaluate(contrast, selector) >= 4.5, selector
    page.close()


@browsing
def test_it_fits_on_a_phone(browser: Browser, url: str) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto(url)
    expect(page.locator("#state")).to_have_text("live")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


def test_the_page_brings_everything_along_and_lets_nothing_else_in(client: httpx.Client) -> None:
    reply = client.get("/")
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for outside in ('src="', "http://", "https://", "@import", "url("):
        assert outside not in reply.text.replace('"http://www.w3.org/2000/svg"', "")


def test_stats_are_those_of_the_requests(client: httpx.Client, reranker: Reranker) -> None:
    for _ in range(2):
        client.post("/v1/rerank", json={"query": QUERY, "documents": PASSAGES}).raise_for_status()
    found = client.get("/stats").json()
    assert found["totals"]["requests"] == 2
    assert found["totals"]["documents"] == 6
    assert found["queue"]["requests"] == 0
    assert 0 < found["queue"]["batch_fill"] <= 1
    (model,) = found["models"]
    assert (model["name"], model["loaded"]) == ("bundled", True)
    assert (model["device"], model["engine"]) == (reranker.scorer.info.device, reranker.scorer.info.engine)
    assert model["reasons"] == reranker.scorer.info.reasons
    assert len({len(values) for values in found["series"].values()}) == 1


def test_a_model_that_is_not_loaded_is_listed_and_not_loaded_for_the_page() -> None:
    settings = ServerSettings(models=("bundled",), load="lazy")
    with live(create_app(settings)) as url:
        assert get(f"{url}/stats").json()["models"] == [{"name": "bundled", "loaded": False}]


def test_the_box_obeys_the_server_s_limits(reranker: Reranker) -> None:
    settings = ServerSettings(max_documents=2)
    with live(create_app(settings, pool=ModelPool.of({"bundled": reranker}))) as url:
        body: dict[str, Any] = {"query": QUERY, "documents": PASSAGES}
        refused = post(f"{url}/stats/try", json=body)
        assert refused.status_code == 413
        assert "2 documents" in refused.json()["message"]
        body = {"query": QUERY, "documents": [], "model": "nobody"}
        assert post(f"{url}/stats/try", json=body).status_code == 404


def test_figures_need_a_key_where_keys_are_set_and_the_page_does_not(reranker: Reranker) -> None:
    app = create_app(ServerSettings(keys=(KEY,)), pool=ModelPool.of({"bundled": reranker}))
    with live(app) as url:
        assert get(f"{url}/").status_code == 200
        for path in ("/stats", "/metrics"):
            assert get(f"{url}{path}").status_code == 401
            assert get(f"{url}{path}", headers={"Authorization": f"Bearer {KEY}"}).status_code == 200


def test_health_checks_scrapes_and_the_page_leave_no_line_in_the_log(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="rerank_plugins.serving.requests")
    with live(app) as url, httpx.Client(base_url=url, timeout=600) as client:
        for path in ("/", "/health", "/ready", "/metrics", "/stats", "/nowhere"):
            client.get(path)
        client.post("/v1/rerank", json={"query": QUERY, "documents": PASSAGES})
    logged = [record.fields["path"] for record in caplog.records if hasattr(record, "fields")]
    assert logged == ["/nowhere", "/v1/rerank"]


def test_metrics_count_what_the_server_did(client: httpx.Client) -> None:
    body = {"query": QUERY, "documents": PASSAGES}
    client.post("/v1/rerank", json=body).raise_for_status()
    client.post("/rerank", json={"query": QUERY, "texts": PASSAGES}).raise_for_status()
    client.post("/v1/rerank", json=body | {"model": "nobody"})
    text = client.get("/metrics").text
    for line in (
        'rerank_requests_total{dialect="rerank",status="200"} 1.0',
        'rerank_requests_total{dialect="tei",status="200"} 1.0',
        'rerank_requests_total{dialect="rerank",status="404"} 1.0',
        'rerank_rejected_total{reason="unknown_model"} 1.0',
        'rerank_documents_total{model="bundled"} 6.0',
        "rerank_requests_in_progress 0.0",
        "rerank_models_loaded 1.0",
    ):
        assert line in text.splitlines()
