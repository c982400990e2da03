"""One reader for all tables: what is legal is read as it was meant, what is not is one sentence with its line."""

import csv
import json

import pytest

from flowgen.data.tables import read_table
from flowgen.errors import FlowgenError, UsageError

ROWS = [{"file": "a.wav", "caption": 'a "dog", then\na cat'}, {"file": "ü.wav", "caption": "日本"}]


def written(path, rows, encoding="utf-8"):
    if path.suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows)
        path.write_bytes(text.encode(encoding))
    else:
        with path.open("w", newline="", encoding=encoding) as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_encodings_quotes_and_line_ends(tmp_path, suffix, encoding):
    assert read_table(written(tmp_path / f"t{suffix}", ROWS, encoding)) == ROWS


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\x85", "\x1c", "\x0b", "\x0c"])
def test_lines_end_at_newlines_alone(tmp_path, character):
    rows = [{"file": "a.wav", "caption": f"a dog{character}barks"}]
    for suffix in (".jsonl", ".csv"):
        assert read_table(written(tmp_path / f"t{suffix}", rows)) == rows


def test_nothing_is_no_value(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": NaN, "b": "", "c": null, "d": 0, "e": "nan", "f": false}\n')
    (row,) = read_table(tmp_path / "t.jsonl")
    assert row == {"a": None, "b": None, "c": None, "d": 0, "e": "nan", "f": False}
    (tmp_path / "t.csv").write_text("a,b,,c\n,x,7,\n\n")
    assert read_table(tmp_path / "t.csv") == [{"a": None, "b": "x", "column 3": "7", "c": None}]
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"a": [1.5, float("nan")], "b": ["", "x"]}), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet") == [{"a": 1.5, "b": None}, {"a": None, "b": "x"}]


def test_long_fields_are_read(tmp_path):
    rows = [{"file": "a.wav", "caption": "x" * 300_000}]
    assert read_table(written(tmp_path / "t.csv", rows)) == rows
    assert csv.field_size_limit() < 300_000  # what other code relies on is as it was


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("t.csv", b"file,caption\na.wav,a dog, then a cat\n", r"t\.csv:2: 3 fields, another number of fields"),
        ("t.csv", b'file,caption\n"a\nb.wav",x\nc.wav\n', r"t\.csv:4: 1 fields"),
        ("t.csv", b'file\n"a.wav\n', r"t\.csv:\d: cannot be read as CSV"),
        ("t.csv", b"file,file\na,b\n", "names file twice"),
        ("t.csv", b"file\n\xe9.wav\n", "UTF-8"),
        ("t.csv", b"", "no rows"),
        ("t.jsonl", b'{"file": "a"}\n\n{"file": \n', r"t\.jsonl:3: not JSON"),
        ("t.jsonl", b'"a.wav"\n', r"t\.jsonl:1: expected an object"),
        ("t.jsonl", b"[" * 100_000 + b"\n", r"t\.jsonl:1: not JSON"),
        ("t.jsonl", b'{"a": ' + b"9" * 10_000 + b"}\n", r"t\.jsonl:1: not JSON"),
        ("t.parquet", b"PAR1 and nothing else", "Parquet"),
    ],
)
def test_what_is_no_table_is_one_sentence_with_its_line(tmp_path, name, content, words):
    if name == "t.parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FlowgenError, match=words) as caught:
        read_table(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_another_kind_of_file_is_refused(tmp_path):
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"expected a name in \.csv"):
        read_table(tmp_path / "t.xlsx")
    with pytest.raises(UsageError, match="there is no file"):
        read_table(tmp_path / "t.csv")
