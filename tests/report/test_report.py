"""The report is one file that needs nothing else, says what the run said, and stays whole under hostile words."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser

import pytest
import report_fixture as fixture
from browser import PROGRAM, browser
from PIL import Image

from saccade.report import check
from saccade.report.curves import POINTS, charts
from saccade.report.intervals import interval, over_seeds
from saccade.report.page import write_page
from saccade.report.record import read_all
from saccade.report.tables import Change, exact, text
from saccade.training.run import Run
from saccade.training.video import shrink

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Page(HTMLParser):
    """Tags and words of a page; knows whether every tag was closed."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.data: list[dict] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script" and self.tags[-1][1].get("type") == "application/json":
            self.data.append(json.loads(data))
        elif not self.open or self.open[-1] not in ("script", "style"):
            self.words.append(data.strip())

    def headings(self) -> list[str]:
        return [word for word in self.words if word]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    return {
        "plain": fixture.make(home / "plain", steps=60),
        "other": fixture.make(home / "other", "promptrl", lift=0.2, seed=1, steps=60),
        "staged": fixture.make(home / "staged", "promptrl", steps=60, stages=True),
        "hostile": fixture.hostile(home / "hostile"),
        "seeing": fixture.seeing(home / "seeing"),
        "seeing more": fixture.seeing(home / "more", lift=0.6),
        "acting": fixture.acting(home / "acting"),
        "acting again": fixture.acting(home / "again", seed=1),
        "check": fixture.check(home / "check.json", "refuted"),
    }


def page(folders, out, checks=()) -> tuple[Page, str]:
    html = write_page(folders, out, checks).read_text()
    return Page(html), html


def test_one_run(runs, tmp_path):
    parsed, html = page([runs["plain"]], tmp_path / "deep" / "report.html", [runs["check"]])
    shown = " ".join(parsed.words)
    assert not parsed.open and html.startswith("<!doctype html>")
    for words in (
        "Flow-GRPO",
        "Before and after",
        "0.760",
        "+0.450",
        "refuted",
        "0.320 ± 0.02",
        "seeds 3 · time 7 min · date 2026-01-02 · machine cpu a fast one, cores 2",
        "three green circles",
    ):
        assert words in shown, words
    for heading in ("Rewards and evaluations", "Pictures", "Score by kind of prompt", "Health", "Cost", "Settings"):
        assert heading in parsed.words, heading
    assert "Learned rewrites" not in parsed.words and "7680" in shown and "0.0003" in parsed.words
    names = [chart["name"] for chart in parsed.data]
    assert names[:4] == ["reward/shapes", "reward/alignment", "eval/shapes", "eval/untouched"]
    assert names[4:] == ["health/ratio", "health/clip_fraction", "health/kl", "health/diversity", "loss/flow"]
    assert parsed.data[0]["traces"][0]["images"][-1] == 60 * 128
    assert sum(tag == "img" for tag, _ in parsed.tags) == 2 * len(fixture.PROMPTS)


def test_everything_is_inside(runs, tmp_path):
    parsed, html = page([runs["plain"], runs["other"]], tmp_path / "r.html")
    addresses = [a[key] for _, a in parsed.tags for key in ("src", "href", "srcset", "action") if key in a]
    assert addresses and all(address.startswith("data:") for address in addresses)
    own = html.replace(re.search(r"<script>(.{1000000,}?)</script>", html, re.DOTALL)[1], "")
    own = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", own).replace("http-equiv", "")
    assert "http" not in own and "url(" not in own and "@import" not in own
    first = next(a["src"] for tag, a in parsed.tags if tag == "img")
    assert base64.b64decode(first.split(",")[1])[:4] == b"\x89PNG"
    assert html.count("plotly.js v") == 1


def test_a_comparison_overlays_runs_and_shows_a_common_start_once(runs, tmp_path):
    parsed, _ = page([runs["plain"], runs["other"]], tmp_path / "r.html")
    assert [trace["run"] for trace in parsed.data[0]["traces"]] == [0, 1]
    assert sum(tag == "img" for tag, _ in parsed.tags) == 3 * len(fixture.PROMPTS)
    assert (
        sum(a.get("class") == "differs" for tag, a in parsed.tags if tag == "tr") == 3
    )  # settings seed and kl; the seed's origin
    twins, _ = page([runs["plain"], runs["plain"]], tmp_path / "r.html")
    assert "flow_grpo plain (1)" in twins.words and "flow_grpo plain (2)" in twins.words


def test_stages_are_sections_in_their_order(runs, tmp_path):
    parsed, _ = page([runs["staged"]], tmp_path / "r.html")
    words = parsed.words
    assert words.index("warm-up") < words.index("main") < words.index("Learned rewrites")
    assert any(word.endswith("bold flat colours, nothing else") for word in words)
    assert "15\u202f360" in words


def test_the_comparison_comes_first_and_what_is_seldom_read_is_folded(runs, tmp_path):
    _, html = page([runs["plain"]], tmp_path / "r.html")
    headings = re.findall(r'<details class="fold"( open)?><summary><h2>([^<]+?) *<', html)
    names = [name for _, name in headings]
    assert html.index("Before and after") < html.index(f"<h2>{names[0]}")
    assert names.index("Pictures") < names.index("Rewards and evaluations") < names.index("Settings")
    opened = {name for is_open, name in headings if is_open}
    assert {"Pictures", "Rewards and evaluations", "Cost"} <= opened
    assert not opened & {"Settings", "Provenance", "Health", "Learned rewrites"}
    assert html.count("<details") == html.count("</details>") and html.count("<section") == html.count("</section>")


def test_hostile_words_stay_words(runs, tmp_path):
    parsed, _ = page([runs["hostile"], runs["plain"]], tmp_path / "r.html", [runs["check"]])
    assert not parsed.open and not any(a.get("src") == "x" or "onerror" in a for _, a in parsed.tags)
    assert {tag for tag, _ in parsed.tags} <= {
        *"html head meta link title style body main header section h1 h2 h3 p span b i s u div ul li".split(),
        *"table thead tbody tr th td caption figure figcaption img article button script noscript blockquote".split(),
        *"pre details summary svg g polyline circle nav label input output".split(),
    }
    assert fixture.HOSTILE in parsed.words and "49" not in parsed.words
    assert [chart["name"] for chart in parsed.data].count(f"reward/{fixture.HOSTILE}") == 1
    assert not any(chart["name"] == "reward/never" for chart in parsed.data)
    assert sum(tag == "script" for tag, _ in parsed.tags) == len(parsed.data) + 4


def test_conversations_show_what_was_seen_and_said(runs, tmp_path):
    parsed, html = page([runs["seeing"]], tmp_path / "r.html")
    shown = " ".join(" ".join(parsed.words).split())
    assert not parsed.open and "Conversations" in parsed.words and "Learned rewrites" not in parsed.words
    assert "The same prompts and noise at step 0 and step 40. Turns that are not the model's are grey." in shown
    assert "solid is the model's box, dashed the true one." in shown and "near the middle" in parsed.words
    turns = [a["class"] for tag, a in parsed.tags if a.get("class", "").startswith("turn ")]
    assert turns == ["turn given", "turn trained"] * 2 * 6 * 2
    boxes = [a for tag, a in parsed.tags if a.get("class", "").startswith("outline")]
    assert [a["class"] for a in boxes].count("outline true") == 12 and [a["class"] for a in boxes].count(
        "outline predicted"
    ) == 11 + 2
    assert all(0 <= float(x) <= 100 for a in boxes for x in re.findall(r":([\d.]+)%", a["style"]))
    assert sum(tag == "img" for tag, _ in parsed.tags) == 6 * 2 * 2 + 6 * 3  # glance and crop, target and two renders
    assert (
        sum(tag == "pre" for tag, _ in parsed.tags) == 12 and "&lt;circle" in html and "program after" in parsed.words
    )


def test_conversations_of_several_runs_share_their_start(runs, tmp_path):
    parsed, _ = page([runs["seeing"], runs["seeing more"], runs["plain"]], tmp_path / "r.html")
    assert sum(a.get("class") == "conversation" for _, a in parsed.tags) == 3 * 6
    assert sum(a.get("alt", "").startswith("target") for _, a in parsed.tags) == 6 and not parsed.open


def test_episodes_are_clips_with_strips_and_paths(runs, tmp_path):
    parsed, html = page([runs["acting"]], tmp_path / "r.html")
    shown = " ".join(" ".join(parsed.words).split())
    assert not parsed.open and "Episodes" in parsed.words and "Pictures" not in parsed.words
    assert (
        "The same episodes at step 0 and step 4000. The return of each episode is beside it." in shown
        and "13 steps, success" in shown
    )
    for kind in ("clip", "strip"):
        own = [a for tag, a in parsed.tags if tag == "img" and a["class"].split()[0] == kind]
        assert (
            len(own) == 8
            and len({a["src"] for a in own}) == 8
            and [a["alt"].startswith("before") for a in own] == [True, False] * 4
        )
    clip = Image.open(
        io.BytesIO(
            base64.b64decode(next(a["src"] for _, a in parsed.tags if "clip" in a.get("class", "")).split(",")[1])
        )
    )
    assert clip.format == "WEBP" and 55 < clip.n_frames <= 60 and clip.size == (64, 64)
    assert [a["class"] for tag, a in parsed.tags if tag == "g"] == ["was", "now"] * 4
    numbers = [float(x) for tag, a in parsed.tags if tag == "polyline" for x in re.split("[ ,]", a["points"])]
    assert min(numbers) >= 6 and max(numbers) <= 94 and "motion" in html
    assert sum(a.get("class") == "motion" for tag, a in parsed.tags if tag == "button") == 1


def test_returns_come_with_intervals_over_episodes_and_seeds(runs, tmp_path):
    parsed, _ = page([runs["acting"], runs["acting again"], runs["plain"]], tmp_path / "r.html")
    names = [chart["name"] for chart in parsed.data]
    assert "eval/return" in names and not any("standard error" in name for name in names)
    band = next(chart for chart in parsed.data if chart["name"] == "eval/return")["traces"][0]
    assert all(low < y < high for low, y, high in zip(band["low"], band["y"], band["high"])) and band["high"][0] - band[
        "y"
    ][0] == pytest.approx(1.96 * 1.3)
    shown = " ".join(" ".join(parsed.words).split())
    assert (
        "2 runs that differ in their seed alone" in shown
        and "± is the 95 % interval" in shown
        and "standard error" not in shown
    )
    (group,) = over_seeds(read_all([runs["acting"], runs["acting again"], runs["acting"], runs["plain"]]))
    name, before, after = group.rows[0]
    assert (group.runs, name, before.half) == ([0, 1], "return", 0) and after.mean == pytest.approx(16.37)
    assert interval([1.0, 2.0, 4.0]).half == pytest.approx(
        4.302653 * 1.527525 / 3**0.5, rel=1e-5
    )  # t(0.975, 2 degrees)


def test_samples_hold_clips_in_plain_lines(runs, tmp_path):
    line = json.loads((runs["acting"] / "samples.jsonl").read_text().splitlines()[0])
    item = line["items"][1]
    assert (
        list(item) == ["prompt", "image", "clip", "path", "note", "score"]
        and item["clip"] == "samples/test/000000-01.webp"
    )
    assert len(item["path"]) == 60 and Image.open(runs["acting"] / item["image"]).size == (5 * 64 + 4 * 2, 64)
    frames = (
        fixture.np.zeros((100, 240, 20, 3), fixture.np.uint8)
        + fixture.np.arange(100, dtype=fixture.np.uint8)[:, None, None, None]
    )
    kept = shrink(frames)
    assert (
        kept.shape == (96, 192, 16, 3)
        and kept[0].max() == 0
        and kept[-1].min() == 99
        and shrink(frames, 2).shape[0] == 2
    )
    with Run.start(tmp_path / "r", {"recipe": "x"}, display=False) as run:
        for wrong, why in [
            ({"clip": frames[:2] / 255}, "clip must be uint8"),
            ({"clip": frames[:0]}, "clip must be uint8"),
            ({"clip": frames[:2], "path": [[1, float("nan")]]}, "path must be finite"),
            ({"clip": frames[:2], "path": [1, 2]}, "path must be finite"),
        ]:
            with pytest.raises(ValueError, match=why):
                run.samples(1, "s", [{"prompt": "p", **wrong}])
    assert not (run.folder / "samples.jsonl").exists()


def test_samples_hold_conversations_in_plain_lines(runs):
    lines = [json.loads(line) for line in (runs["seeing"] / "samples.jsonl").read_text().splitlines()]
    item = lines[0]["items"][1]
    assert (
        list(item) == ["prompt", "image", "text", "score", "turns"]
        and item["image"] == "samples/held out/000000-01.png"
    )
    first, reply = item["turns"][:2]
    assert (
        first["who"] == "user"
        and first["trained"] is False
        and reply == {"who": "model", "text": reply["text"], "pictures": [], "trained": True}
    )
    assert (
        first["pictures"][0]["image"] == "samples/held out/000000-01-0-0.png"
        and first["pictures"][0]["boxes"][1]["kind"] == "predicted"
    )
    assert all((runs["seeing"] / picture["image"]).is_file() for turn in item["turns"] for picture in turn["pictures"])
    assert lines[1]["items"][0]["target"] == "samples/drawings/000000-00-target.png"


@pytest.mark.parametrize(
    ("box", "why"),
    [({"corners": [1, 2, 3]}, "four finite corners"), ({"corners": [1, 2, 3, float("nan")]}, "four finite corners"),
     ({"corners": [1, 2, 3, 4], "kind": "treu"}, "nearest: true")],
)  # fmt: skip
def test_a_box_that_is_none_is_refused(tmp_path, box, why):
    with Run.start(tmp_path / "r", {"recipe": "x"}, display=False) as run, pytest.raises(ValueError, match=why):
        run.samples(1, "s", [{"prompt": "p", "image": fixture.torch.zeros(3, 4, 4), "boxes": [box]}])


def test_missing_parts_are_left_out(tmp_path):
    with Run.start(tmp_path / "r", {"recipe": "nobody's"}, display=False) as run:
        run.samples(5, "s", [{"prompt": "p", "image": fixture.picture([], fixture.np.random.default_rng(0), 0)}])
    parsed, html = page([tmp_path / "r"], tmp_path / "r.html")
    assert {"Pictures", "Cost"} <= set(parsed.words) and "not finished" in parsed.words
    assert not {"Before and after", "Rewards and evaluations", "Health", "Settings", "Learned rewrites"} & set(
        parsed.words
    )
    assert len(html) < 100_000
    (tmp_path / "r" / "samples" / "s" / "000005-00.png").unlink()
    assert "Pictures" not in page([tmp_path / "r"], tmp_path / "r.html")[0].words


def test_an_unfinished_run_shows_its_evaluations(tmp_path):
    with Run.start(tmp_path / "r", {"recipe": "x"}, display=False) as run:
        for step in (0, 10, 20):
            run.log(step, {"eval/a": step / 100})
    assert read_all([tmp_path / "r"])[0].scores() == ({"a": 0.0}, {"a": 0.2})


@pytest.mark.parametrize(
    "name, content, message",
    [
        (None, "", "has nothing to show yet"),
        ("config.json", "[1", "config.json is not the config of a run"),
        ("metrics.jsonl", '{"step": 1}\nnot\n', "metrics.jsonl line 2 is not a record: 'not'"),
        ("tables.json", '{"t": 3}', "table 't' lacks columns or rows"),
        ("result.json", "7", "result.json is not the result of a run"),
        ("samples.jsonl", '{"step": 1, "set": "s", "items": [{"prompt": "p"}]}\n', "lacks prompt or image"),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "../../x.png"}]}\n',
            "a picture outside its run",
        ),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "config.json"}]}\n',
            "is not a picture",
        ),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "a.png", "target": "../x.png"}]}\n',
            "a picture outside its run",
        ),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "a.png", "turns": [{"who": "m"}]}]}\n',
            "turns or a path of another form",
        ),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "a.png", "clip": "../a.webp"}]}\n',
            "a picture outside its run",
        ),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "a.png", "clip": "config.json"}]}\n',
            "is not a clip",
        ),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "a.png", "path": [["<x>", 1]]}]}\n',
            "a path of another form",
        ),
        (
            "samples.jsonl",
            '{"step": 1, "set": "s", "items": [{"prompt": "p", "image": "a.png", "boxes": [{"corners": [1]}]}]}\n',
            "boxes, turns or a path of another form",
        ),
    ],
)
def test_a_broken_folder_is_one_line(tmp_path, name, content, message):
    Run.start(tmp_path / "r", {"recipe": "x"}, display=False).close()
    if name:
        (tmp_path / "r" / name).write_text(content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        write_page([tmp_path / "r"], tmp_path / "out.html")
    assert "\n" not in str(caught.value) and not (tmp_path / "out.html").exists()


def test_wrong_paths_are_one_line(runs, tmp_path):
    for folders, message in (([], "at least one run"), ([tmp_path / "none"], "there is no run in")):
        with pytest.raises(ValueError, match=message):
            write_page(folders, tmp_path / "out.html")
    with pytest.raises(ValueError, match="not the result of a check"):
        write_page([runs["plain"]], tmp_path / "out.html", [runs["plain"] / "metrics.jsonl"])


def test_long_curves_keep_their_shape_in_few_points(tmp_path):
    with Run.start(tmp_path / "r", {"recipe": "x"}, display=False) as run:
        for step in range(1, 2001):
            run.log(step, {"reward/a": 5.0 if step <= 1000 else 7.0, "cost/images": 2})
    (chart,) = charts(read_all([tmp_path / "r"]), "", ("reward",))
    (trace,) = chart["traces"]
    assert len(trace["y"]) == POINTS == len(trace["smooth"]) and trace["y"][:199] == [5.0] * 199
    assert (
        trace["steps"][0] == 3
        and trace["images"][-1] == pytest.approx(3996)
        and trace["smooth"][0] == pytest.approx(5, abs=1e-6)
    )


def test_numbers_for_people():
    assert [text(x) for x in (None, True, 0.5, 1234567, 12.3456, 1e-5, [1, None], {"a": 1, "b": None})] == [
        "–", "yes", "0.500", "1\u202f234\u202f567", "12.35", "1e-05", "1, –", "a 1",
    ]  # fmt: skip
    assert [exact(x) for x in (0.2, 3e-4, 123456, False, "x")] == ["0.2", "0.0003", "123456", "no", "x"]


def test_a_change_that_rounding_made_is_none():
    assert Change(0.29166666, 0.29166669).delta == 0 and Change(0.25, 0.26).delta == pytest.approx(0.01)
    assert Change(None, 0.5).delta is None and Change(0.0, 0.0).delta == 0


def test_a_check_shows_scores_after_training_whatever_their_names(tmp_path):
    row = {
        "acc@1": 0.5,
        "acc@5, teacher": 0.9,
        "acc@1@0": 0.1,
        "acc@1@20": 0.5,
        "first/acc@1@20": 0.2,
        "loss@0": 2.0,
        "seconds": 3.0,
    }
    result = {"scores": {"arm": {"0": row}}, "claims": [], "seeds": [0], "seconds": 3.0}
    (tmp_path / "found.json").write_text(json.dumps(result))
    assert check.read_check(tmp_path / "found.json")["scores"] == ["acc@1", "acc@5, teacher", "seconds"]


def test_what_was_measured_once_is_a_score_and_no_curve_and_many_scores_are_a_table(tmp_path):
    def shown(scores: dict[str, float], name: str) -> tuple[str, str]:
        with Run.start(tmp_path / name, {"recipe": "x", "settings": {}, "seed": 0}, display=False) as run:
            run.log(0, scores | {"eval/reference, points": 0.75})
            run.log(5, {key: value - 1 for key, value in scores.items()})
            once = {"reference, points": 0.75} if len(scores) < 3 else {}
            before = {key.removeprefix("eval/"): value for key, value in scores.items()}
            run.finish({"before": before | once, "after": {key: value - 1 for key, value in before.items()}})
        parsed, html = page([tmp_path / name], tmp_path / f"{name}.html")
        return " ".join(" ".join(parsed.words).split()), html

    words, html = shown({"eval/points": 0.25}, "few")
    assert "0.750 before" in words and "−0.750" in words and "<figcaption>eval/reference, points" not in html
    words, html = shown({f"eval/score {i}": i / 16 for i in range(13)}, "many")
    assert "score before after change" in words and "score 4 0.250 −0.750 −1" in words and 'class="score"' not in html


def test_the_recipe_of_a_run_is_read_not_run(tmp_path):
    recipe = tmp_path / "mine.py"
    recipe.write_text(
        '"""Mine: a test.\n\npaper: A paper,\n    in two lines.\nclaims: It works: always.\n"""\nraise SystemExit'
    )
    with Run.start(tmp_path / "r", {"recipe": "mine", "file": str(recipe)}, display=False) as run:
        run.log(1, {"reward/a": 1})
    assert {"Mine", "A test.", "A paper, in two lines.", "It works: always."} <= set(
        page([run.folder], tmp_path / "r.html")[0].words
    )


@pytest.mark.skipif(PROGRAM is None, reason="needs chromium")
def test_in_a_browser_nothing_fails_leaves_or_overflows(runs, tmp_path):
    path = write_page(
        [runs["plain"], runs["hostile"], runs["seeing"], runs["acting"]], tmp_path / "r.html", [runs["check"]]
    )
    with browser(tmp_path / "profile") as tab:
        for width in (1280, 390):
            tab.open(path, width, dark=width == 390)
            assert tab.errors == [] and [r for r in tab.requests if not r.startswith("data:")] == [
                path.resolve().as_uri()
            ]
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth && innerWidth") == width
            assert tab.evaluate(
                "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.scatterlayer path'))"
            )
            inside = (
                "const a = b.getBoundingClientRect(), f = b.parentNode.getBoundingClientRect(); "
                "return a.left >= f.left - 1 && a.right <= f.right + 1 && a.bottom <= f.bottom + 1"
            )
            assert tab.evaluate(f"[...document.querySelectorAll('.outline')].every(b => {{{inside}}})")
        chart = "[...document.querySelectorAll('.chart')].find(c => c.textContent.startsWith('reward/shapes'))"
        last = f"[...{chart}.querySelector('.plot').data[0].x].pop()"
        assert tab.evaluate(last) == 60
        tab.evaluate("document.querySelector('[data-axis=images]').click()")
        assert tab.evaluate(last) == 60 * 128 and tab.errors == []
        assert tab.evaluate("document.querySelectorAll('[aria-pressed=true]').length") == 1


@pytest.mark.skipif(PROGRAM is None, reason="needs chromium")
def test_in_a_browser_clips_move_only_where_they_may(runs, tmp_path):
    path = write_page([runs["acting"]], tmp_path / "r.html")
    displayed = "['.clip', '.strip'].map(k => getComputedStyle(document.querySelector(k)).display !== 'none')"
    with browser(tmp_path / "profile") as tab:
        tab.open(path, 1280)
        assert (
            tab.evaluate(displayed) == [True, False]
            and tab.evaluate("document.querySelector('.clip').naturalWidth") == 64
        )
        tab.emulate("prefers-reduced-motion", "reduce")
        assert (
            tab.evaluate(displayed) == [False, True]
            and tab.evaluate("document.querySelector('.motion').textContent") == "Play"
        )
        tab.evaluate("document.querySelector('.motion').click()")
        assert tab.evaluate(displayed) == [True, False]
        tab.open(path, 390)
        assert tab.evaluate(displayed) == [False, True] and tab.errors == []
        for _ in (0, 1):
            wide = (
                "[...document.querySelectorAll('.episodes article')].every(a => [...a.querySelectorAll('figure')]"
                ".every(f => f.getBoundingClientRect().right <= a.getBoundingClientRect().right))"
            )
            assert tab.evaluate("document.documentElement.scrollWidth") == 390 and tab.evaluate(wide)
            tab.evaluate("document.querySelector('.motion').click()")


def test_a_check_has_curves_of_its_arms_with_the_interval_over_seeds(tmp_path):
    row = lambda last: {"acc@0": 0.1, "acc@10": 0.3, "acc@20": last, "acc": last, "once": 1.0}
    scores = {"grpo": {"0": row(0.5), "1": row(0.7)}, "base": {"0": row(0.2)}}
    result = {"scores": scores, "claims": [], "seeds": [0, 1], "seconds": 3.0}
    (tmp_path / "found.json").write_text(json.dumps(result))
    (chart,) = check.read_check(tmp_path / "found.json")["curves"]
    grpo, base = chart["traces"]
    assert chart["name"] == "acc" and grpo["steps"] == [0, 10, 20] and grpo["y"] == pytest.approx([0.1, 0.3, 0.6])
    assert grpo["high"][2] - grpo["low"][2] == pytest.approx(2 * 12.706 * 0.1, rel=1e-3) and grpo["low"][0] == 0.1
    assert base["arm"] == "base" and "low" not in base, "one seed has no interval"


@pytest.mark.skipif(PROGRAM is None, reason="needs chromium")
def test_in_a_browser_contents_lead_a_slider_shows_every_evaluation_and_a_click_enlarges(runs, tmp_path):
    path = write_page([runs["plain"]], tmp_path / "r.html")
    with browser(tmp_path / "profile") as tab:
        tab.open(path, 1280)
        shown = tab.evaluate("[...document.querySelectorAll('#contents a')].map(a => a.textContent)")
        assert shown == tab.evaluate(
            "[...document.querySelectorAll('main h2')].map(h => h.textContent.trim().replace(/\\s+/g, ' '))"
        )
        places = "[...document.querySelectorAll('#contents a')].every(a => document.querySelector(a.hash))"
        assert tab.evaluate(places) and "Pictures held-out" in shown
        figure = "document.querySelector('figure[data-course]')"
        last = tab.evaluate(f"{figure}.querySelector('img').src")
        slide = "const s = document.querySelector('.course input'); s.value = 0; s.dispatchEvent(new Event('input'))"
        tab.evaluate(f"(() => {{{slide}}})()")
        first = tab.evaluate(f"{figure}.querySelector('img').src")
        before = tab.evaluate(f"{figure}.previousElementSibling.querySelector('img').src")
        assert first == before != last and tab.evaluate(f"{figure}.querySelector('.step').textContent") == "step 1"
        tab.evaluate(f"{figure}.querySelector('img').click()")
        assert (
            tab.evaluate("document.querySelector('dialog').open && document.querySelector('dialog img').src") == first
        )
        tab.evaluate("document.querySelector('dialog').click()")
        assert not tab.evaluate("document.querySelector('dialog').open") and tab.errors == []


def test_changes_smaller_than_their_interval_are_told_as_such():
    assert Change(0.30, 0.31, (0.05, 0.05)).within and not Change(0.30, 0.40, (0.05, 0.05)).within
    assert not Change(0.30, 0.31).within and text(Change(0.0359, 0.0364706).shown_delta) == "0.001"
