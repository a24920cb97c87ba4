"""Files of rows as others write them: byte-order marks, other line ends, hostile content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.models import tables


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path, encoding: str):
    (tmp_path / "a.jsonl").write_bytes('{"a": "é\u2028"}\r\n\r\n{"a": 2}'.encode(encoding))
    assert tables.read_jsonl(tmp_path / "a.jsonl") == [{"a": "é\u2028"}, {"a": 2}]
    (tmp_path / "a.csv").write_bytes('a,b\r\n"x, y",é\r\n'.encode(encoding))
    assert tables.read_csv(tmp_path / "a.csv") == [{"a": "x, y", "b": "é"}]


@pytest.mark.parametrize(
    "content, why",
    [
        (b"[1]", "a:1: '\\[1\\]' is not an object"),
        (b"\n[[", "a:2: not JSON"),
        (b"\xff", "a: cannot be read: it is not text"),
    ],
)
def test_a_line_that_is_no_object_is_named(tmp_path: Path, content: bytes, why: str):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match=why):
        tables.read_jsonl(tmp_path / "a")


def test_rows_of_another_length_than_the_head_are_named(tmp_path: Path):
    for body in ("1,2,3", "1"):
        (tmp_path / "a.csv").write_text(f"a,b\n1,2\n{body}\n")
        with pytest.raises(ValueError, match="row 2 has not 2 fields"):
            tables.read_csv(tmp_path / "a.csv")


def test_no_pipe_is_opened_and_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe: cannot be read: it is no regular file"):
        tables.read_text(tmp_path / "pipe")
    (tmp_path / "big").write_text("1234")
    monkeypatch.setattr(tables, "LARGEST", 3)
    with pytest.raises(ValueError, match="big: cannot be read: it has more than"):
        tables.read_text(tmp_path / "big")


@given(st.binary(max_size=80))
def test_any_content_is_rows_or_one_line(content: bytes):
    file = Path("/tmp") / f"saccade-rows-{os.getpid()}"
    try:
        file.write_bytes(content)
        for read in (tables.read_jsonl, tables.read_csv):
            try:
                read(file)
            except ValueError as error:
                assert "\n" not in str(error)
    finally:
        file.unlink()
