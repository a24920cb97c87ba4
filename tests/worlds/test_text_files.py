"""Files with one thing a line: what is read, what is refused, and where a mistake is said to be."""

import pytest

from saccade.core import Problem
from saccade.models.tables import object_of
from saccade.worlds import text_files


def test_lines_keep_their_numbers_and_blank_ones_are_passed_over(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\n{"text": " one\u2028two "}\n   \n{"text": "three"}\r\n', encoding="utf-8")
    found = text_files.parse_lines(file, lambda line: text_files.text_of(object_of(line), "text"), "texts")
    assert found == ((2, "one\u2028two"), (4, "three"))


@pytest.mark.parametrize(
    "content, why",
    [
        (b"{}\n[1]", "a.jsonl:2: '\\[1\\]' is not an object"),
        (b'{"text": ""}', "a.jsonl:1: text '' must be a text"),
        (b"{", "a.jsonl:1: not JSON"),
        (b"[" * 100_000, "a.jsonl:1: not JSON"),
        (b" \n", "a.jsonl: no texts in this file"),
        (b"\xff", "a.jsonl: cannot be read"),
    ],
)
def test_a_line_that_does_not_fit_is_named(tmp_path, content, why):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        text_files.parse_lines(
            tmp_path / "a.jsonl",
            lambda line: (e := object_of(line)) and text_files.text_of(e, "text"),
            "texts",
        )


def test_problems_are_made_when_they_are_asked_for(tmp_path):
    made = []

    def make(index: int, record: str) -> Problem:
        made.append(record)
        text_files.ensure(record != "torn", "cannot be read as a picture")
        return Problem(index, record)

    problems = text_files.FileProblems(tmp_path / "p.jsonl", ((3, "whole"), (7, "torn")), make)
    assert len(problems) == 2 and not made
    assert problems[0].inputs == "whole" and problems[-2].id == 0
    with pytest.raises(ValueError, match="p.jsonl:7: cannot be read as a picture"):
        problems[1]


def test_lines_are_checked_once_and_read_again_on_access(tmp_path):
    file, parsed = tmp_path / "n.txt", []
    file.write_text("1\n\n 2 \u2028\n3")

    def parse(line: str) -> int:
        parsed.append(line)
        return int(line)

    lines = text_files.Lines(file, parse, "numbers")
    assert len(lines) == 3 and len(parsed) == 3
    assert list(lines) == [(1, 1), (3, 2), (4, 3)] and lines[-1] == (4, 3) and lines[:2] == [(1, 1), (3, 2)]
    assert lines.mapped(lambda number: -number)[1] == (3, -2)
    with pytest.raises(ValueError, match=r"n.txt:1: invalid literal"):
        text_files.Lines(tmp_path / "n.txt", lambda line: int("x"), "numbers")
    file.write_text("1\n2\n")
    with pytest.raises(ValueError, match=r"n.txt has changed since it was read"):
        lines[0]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_lines_are_found_again_in_every_encoding(tmp_path, encoding):
    file, texts = tmp_path / "n.txt", ["é\u2028\u0a0a", "", "\u0a0d 😀\r", "b"]
    mark = "\ufeff" if encoding.startswith("utf-16") else ""
    file.write_bytes((mark + "\n".join(texts)).encode(encoding))
    lines = text_files.Lines(file, str, "texts")
    assert [*lines] == [(1, texts[0]), (3, texts[2].strip()), (4, "b")] == [*text_files.parse_lines(file, str, "texts")]
