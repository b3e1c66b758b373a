"""Reports: one verdict, the same figures everywhere, and a page that stands alone."""

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from rerank_plugins import InvalidInputError
from rerank_plugins.evaluation import Evaluation, Topic, Topics, evaluate, verdict, write_report
from rerank_plugins.evaluation.plots import plots
from rerank_plugins.evaluation.report import to_html, to_json, to_markdown
from rerank_plugins.evaluation.tables import facts, tables
from rerank_plugins.scoring.protocol import ScorerInfo
from tests.evaluation import ByText, chance, make_topics, right


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    topics = make_topics()
    odd = Topic("odd", "a | b\n<script>$x$</script>", topics[0].candidates, topics[0].grades)
    systems = {"<good> $model$": ByText(right), "_luck|": ByText(chance)}
    return evaluate(
        Topics("a & b", (odd, *topics[1:]), first_stage="first <stage>"),
        systems,
        depths=(5, 20),
        resamples=200,
    )


def test_files_are_written_into_a_new_folder(evaluation: Evaluation, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "here"
    names = [path.name for path in write_report(evaluation, folder)]
    assert names == ["report.json", "report.md", "report.html"]
    assert all((folder / name).stat().st_size > 1000 for name in names)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="can be written"):
        write_report(evaluation, tmp_path / "file")


def test_json_has_every_figure(evaluation: Evaluation) -> None:
    read = json.loads(to_json(evaluation))
    assert read["verdict"] == verdict(evaluation)
    assert read["first"]["mean"] == evaluation.first.mean
    system = read["systems"][0]
    assert system["comparisons"]["nDCG@10"]["p_value"] == evaluation.systems[0].comparison.p_value
    assert [one["depth"] for one in system["depths"]] == [5, 20]
    assert len(system["depths"][1]["measured"]["by_query"]["AP"]) == 40
    assert system["scores"]["edges"]
    assert system["savings"]


def test_tables_are_rectangular_and_in_all_reports(evaluation: Evaluation) -> None:
    markdown, html = to_markdown(evaluation), to_html(evaluation)
    made = tables(evaluation)
    assert [table.title for table in made][:4] == [
        *("Against the first stage", "All measures", "Cost", "How deep to rerank")
    ]
    for table in made:
        assert all(len(row) == len(table.columns) for row in table.rows)
    figure = f"{evaluation.systems[1].measured.mean['nDCG@10']:.4f}"
    assert figure in markdown
    assert figure in html
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert not any("\n" in line for line in lines)
    assert "\\|" in markdown, "a bar in a name is no column"


class Page(HTMLParser):
    """Collects what a page would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "xlink:href", "data", "action"} and not (value or "").startswith("#"):
                self.fetched.append(f"{tag} {name}={value}")


def test_the_page_needs_nothing_else(evaluation: Evaluation) -> None:
    html = to_html(evaluation)
    page = Page()
    page.feed(html)
    assert page.fetched == []
    assert not {"script", "link", "iframe", "img", "object"}.intersection(page.tags)
    assert page.tags.count("svg") == 4
    assert not re.search(r"url\((?!#)|@import", html)
    assert "&lt;script&gt;" in html


def test_plots_are_readable_svg_with_text(evaluation: Evaluation) -> None:
    drawn = plots(evaluation)
    assert [title.split(":")[0] for title in drawn] == [
        "Quality against latency",
        "Quality against depth",
        "By query",
        "Scores of relevant documents and of the others",
    ]
    for svg in drawn.values():
        root = ET.fromstring(svg)
        text = " ".join(root.itertext())
        assert "<good> $model$" in text
        assert root.tag.endswith("svg")
    assert "best possible order" in " ".join(ET.fromstring(next(iter(drawn.values()))).itertext())
    assert plots(evaluation) == drawn, "the same evaluation draws the same"


def test_a_given_run_alone_is_reported_without_latency() -> None:
    topics = make_topics(6)
    order = {topic.id: [c.id for c in reversed(topic.candidates)] for topic in topics}
    found = evaluate(topics, {"run": order}, resamples=100)
    titles = [table.title for table in tables(found)]
    assert "Cost" not in titles
    assert len(plots(found)) == 2
    assert "run" in to_markdown(found)


class Elsewhere(ByText):
    """A scorer that says where it runs."""

    def __init__(self, device: str) -> None:
        super().__init__(right)
        self.info = ScorerInfo("m", None, device, "float16", "torch", 512, 384, 2**14, 0)


def test_latencies_are_of_what_scored(evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch) -> None:
    host = f"{evaluation.machine['cores']} cores of {evaluation.machine['cpu']}, "
    assert any(fact.startswith(f"latencies: one query at a time, {host}") for fact in facts(evaluation))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    devices = ("cpu", "remote", "cuda:0,cuda:1")
    found = evaluate(make_topics(3), {device: Elsewhere(device) for device in devices}, resamples=100)
    named = "a rerank server, NVIDIA H200 (cuda:0), cuda:1"
    assert any(fact.startswith(f"latencies: one query at a time, {named}, {host}") for fact in facts(found))
