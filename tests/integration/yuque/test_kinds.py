"""Every kind of document, and every form that its answer comes in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fake_yuque import FakeYuque
from tests.integration.yuque.handbook import Handbook, handbook

CARD = "data:%7B%22src%22%3A%22https%3A%2F%2Fcdn.example.com%2Fp.png%22%2C%22name%22%3A%22p.png%22%7D"


async def _only_row(table: Handbook, columns: str) -> tuple[Any, ...]:
    await table.scan()
    (row,) = table.rows(columns)
    return row


async def test_a_page_is_its_markdown_and_its_raw_form(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    lake = "<!doctype lake><p>Hello <strong>world</strong></p>"
    book.write("page", "Hello **world** 你好 🎉\n", body_lake=lake, body_html="<p>Hello</p>", format="lake")
    async with handbook(yuque, tmp_path) as table:
        found = await _only_row(table, "type, format, body, body_raw, data, word_count")
        assert found == ("Doc", "lake", "Hello **world** 你好 🎉\n", lake, None, 21)


async def test_a_body_of_markup_becomes_markdown(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    html = f"""<!doctype lake><h2>Title</h2><p>Some <b>bold</b> and <em>soft</em> text,<br>a <a href="https://a.b/c">link</a> &amp; <code>code</code></p>
    <ul><li>one</li><li>two<ol><li>deep</li><li>deeper</li></ol></li></ul><blockquote><p>said</p></blockquote>
    <card type="block" name="codeblock" value="data:%7B%22mode%22%3A%22python%22%2C%22code%22%3A%22print(1)%22%7D"></card>
    <p><card name="image" value="{CARD}"></card></p><table><tr><th>a</th><th>b</th></tr><tr><td><p>1</p></td><td>x|y</td></tr></table>
    <style>p {{ color: red }}</style><script>alert("no")</script><pre><code>raw
  text</code></pre>"""
    book.write("page", html, type="HtmlDoc", format="html")
    async with handbook(yuque, tmp_path) as table:
        body, raw = await _only_row(table, "body, body_raw")
        assert raw == html
        assert body.split("\n\n") == [
            "## Title",
            "Some **bold** and *soft* text,\na [link](https://a.b/c) & `code`",
            "- one",
            "- two",
            "  1. deep",
            "  2. deeper",
            "> said",
            "```python\nprint(1)\n```",
            "![p.png](https://cdn.example.com/p.png)",
            "| a | b |\n| --- | --- |\n| 1 | x\\|y |",
            "```\nraw\n  text\n```",
        ]


async def test_a_sheet_is_its_cells(yuque: FakeYuque, tmp_path: Path) -> None:
    content = {
        "version": "1.0",
        "data": [
            {"name": "Sheet1", "table": [["name", "type", ""], ["a|b", "line\nbreak", ""], ["", "", ""]]},
            {"name": "Empty", "table": []},
            {"name": "Ragged", "table": [["x"], ["1", "2"]]},
        ],
    }
    sheet = json.dumps(content, ensure_ascii=False)
    yuque.library.book("team/handbook").write("sheet", type="Sheet", body_sheet=sheet, body="{}")
    async with handbook(yuque, tmp_path) as table:
        body, raw, data = await _only_row(table, "body, body_raw, data")
        assert body.split("\n\n") == [
            "## Sheet1",
            "| name | type |\n| --- | --- |\n| a\\|b | line break |",
            "## Empty",
            "## Ragged",
            "| x |  |\n| --- | --- |\n| 1 | 2 |",
        ]
        assert raw == sheet
        assert json.loads(data) == content


def _columns() -> list[dict[str, Any]]:
    options = [{"id": "AUb7o2", "value": "open"}, {"id": "rkGdKP", "value": "done"}]
    return [
        {"id": "c1", "name": "Task", "type": "input"},
        {"id": "c2", "name": "State", "type": "select", "options": options},
        {"id": "c3", "name": "Tags", "type": "multiSelect", "options": options},
        {"id": "c4", "name": "Due", "type": "date"},
        {"id": "c5", "name": "Who", "type": "mention"},
        {"id": "c6", "name": "File", "type": "file"},
        {"id": "c7", "name": "Done", "type": "checkbox"},
    ]


def _record(number: int) -> dict[str, Any]:
    due = {"seconds": 1, "text": "2024-08-14", "time": "2024-08-14T04:12:13.318Z"}
    file = [{"name": "emails.csv", "uid": "u", "src": f"https://host/{number}.csv", "size": 148}]
    user = [{"id": 1, "name": "txy", "login": "u1", "description": None}]
    cells = [f"task {number}", "AUb7o2", ["AUb7o2", "rkGdKP"], due, user, file, "true"]
    return {"values": [{"value": cell} for cell in cells], "createdAt": "2024-08-02T10:14:13.368Z"}


@pytest.mark.parametrize("holder", ["columns", "meta", "sheet"])
async def test_a_data_table_is_all_its_rows_with_options_by_their_names(
    yuque: FakeYuque, tmp_path: Path, holder: str
) -> None:
    shapes: dict[str, Any] = {
        "columns": {"columns": _columns()},
        "meta": {"meta": {"columns": _columns()}},
        "sheet": {"sheet": [{"columns": _columns()}]},
    }
    records = [_record(number) for number in range(450)]
    book = yuque.library.book("team/handbook")
    book.write("table", type="Table", format="laketable", body=json.dumps(shapes[holder]), records=records)
    async with handbook(yuque, tmp_path, options={"attachments": True}) as table:
        body, data, attachments = await _only_row(table, "body, data, attachments")
        queries = [dict(one.query) for one in yuque.asked if one.path.count("/") == 4]
        assert queries == [{"page": str(page), "page_size": "200"} for page in (1, 2, 3)]
        lines = body.split("\n")
        assert lines[0] == "| Task | State | Tags | Due | Who | File | Done |"
        assert lines[2] == "| task 0 | open | open, done | 2024-08-14 | txy | [emails.csv](https://host/0.csv) | true |"
        assert [line.split(" | ")[0] for line in lines[2:]] == [f"| task {number}" for number in range(450)]
        content = json.loads(data)
        assert content["columns"][1] == {"name": "State", "type": "select"}
        assert content["rows"][449]["values"][:3] == ["task 449", "open", ["open", "done"]]
        assert content["rows"][449]["createdAt"] == "2024-08-02T10:14:13.368Z"
        assert json.loads(attachments) == [f"https://host/{number}.csv" for number in range(450)]


async def test_a_board_is_the_texts_of_its_shapes(yuque: FakeYuque, tmp_path: Path) -> None:
    root = {
        "html": "<p>Root <b>idea</b></p>",
        "children": [{"html": "one", "children": [{"text": "deep"}]}, {"html": "two"}],
    }
    content = json.dumps({"format": "lakeboard", "type": "Board", "diagramData": {"body": [root, {"shape": "line"}]}})
    yuque.library.book("team/handbook").write("board", type="Board", format="lakeboard", body=content)
    async with handbook(yuque, tmp_path) as table:
        body, raw = await _only_row(table, "body, body_raw")
        assert body == "- Root **idea**\n  - one\n    - deep\n  - two"
        assert raw == content


async def test_a_kind_without_a_text_form_is_a_row_and_named_in_the_report(yuque: FakeYuque, tmp_path: Path) -> None:
    document = yuque.library.book("team/handbook").write("board", type="Board", body='{"shapes": [{"x": 1}]}')
    async with handbook(yuque, tmp_path) as table:
        report = await table.scan()
        assert table.rows("type, body, body_raw") == [("Board", None, '{"shapes": [{"x": 1}]}')]
        assert report.warnings == (
            f"the document team/handbook/d{document.id} ({document.id}) is a Board without a text form; its raw form is in body_raw.",
        )


async def test_a_thread_is_its_text(yuque: FakeYuque, tmp_path: Path) -> None:
    yuque.library.book("team/handbook").write(
        "thread", body_html="<p>What do you think?</p>", type="Thread", format="html"
    )
    async with handbook(yuque, tmp_path) as table:
        assert await _only_row(table, "type, body") == ("Thread", "What do you think?")


async def test_only_the_kinds_that_are_asked_for_are_read(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    page, _ = book.write("page", "text"), book.write("sheet", type="Sheet", body_sheet='{"data": []}')
    async with handbook(yuque, tmp_path, options={"kinds": ["Doc"]}) as table:
        await table.scan()
        assert table.titles() == ["page"]
        assert yuque.documents_read() == [page.id]


async def test_addresses_of_pictures_and_files_are_listed_when_they_are_asked_for(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    text = (
        "![a](https://cdn.example.com/a.png) and [a page](https://example.com/page), "
        "[f.pdf](https://www.yuque.com/attachments/yuque/0/2024/pdf/f.pdf)\n"
        '<img width="3" src="https://cdn.example.com/b.png?x=1&amp;y=2"> ![a](https://cdn.example.com/a.png)'
    )
    book = yuque.library.book("team/handbook")
    book.write("page", text, body_lake=f'<!doctype lake><card type="inline" name="image" value="{CARD}"></card>')
    async with handbook(yuque, tmp_path, options={"attachments": True}) as table:
        (found,) = await _only_row(table, "attachments")
        assert json.loads(found) == [
            "https://cdn.example.com/a.png",
            "https://cdn.example.com/b.png?x=1&y=2",
            "https://www.yuque.com/attachments/yuque/0/2024/pdf/f.pdf",
            "https://cdn.example.com/p.png",
        ]


async def test_arrays_where_objects_are_promised_and_fields_that_nobody_knows_change_nothing(
    yuque: FakeYuque, tmp_path: Path
) -> None:
    book = yuque.library.book("team/handbook")
    for number in range(3):
        book.write(f"page {number}", f"text {number}")
    columns = ["id", "title", "book", "group_login", "creator", "last_editor", "extra"]
    async with handbook(yuque, tmp_path, columns=columns) as table:
        await table.scan()
        plain = table.rows("id, title, book, group_login, creator, last_editor")
        yuque.moods.arrays = True
        for document in yuque.library.documents.values():
            document.change(public=2)
        assert (await table.scan()).rows == 3
        assert table.rows("id, title, book, group_login, creator, last_editor") == plain
        (extra,) = {extra for (extra,) in table.rows("extra")}
        assert json.loads(extra) == {
            "cover": None,
            "tags": [{"id": 1, "title": "a tag"}],
            "unheard_of": {"deep": [1, 2]},
        }


async def test_times_keep_every_digit_and_one_that_is_none_is_told(yuque: FakeYuque, tmp_path: Path) -> None:
    document = yuque.library.book("team/handbook").write("page", "text")
    document.more = {"created_at": "2024-05-31T23:59:59.123456+08:00", "published_at": "yesterday"}
    async with handbook(yuque, tmp_path) as table:
        report = await table.scan()
        assert table.rows("created_at, published_at") == [("2024-05-31 15:59:59.123456Z", None)]
        assert [
            warning
            for warning in report.warnings
            if "published_at is 'yesterday', which cannot be read as a time" in warning
        ]


async def test_an_answer_that_is_too_long_is_left_out_and_said(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    book.write("large", "x" * 300_000)
    book.write("small", "text")
    async with handbook(yuque, tmp_path, options={"max_bytes": 100_000}) as table:
        report = await table.attempt()
        assert "longer than 100,000 bytes" in str(report.error)
        assert table.titles() == ["small"]


async def test_text_with_half_a_character_is_left_out_and_said(yuque: FakeYuque, tmp_path: Path) -> None:
    book = yuque.library.book("team/handbook")
    book.write("half", "broken \ud83d here")
    book.write("whole", "text 🎉")
    async with handbook(yuque, tmp_path) as table:
        report = await table.attempt()
        assert "not JSON of valid text" in str(report.error)
        assert table.rows() == [("whole", "text 🎉")]


async def test_a_page_of_another_site_is_told_as_such(yuque: FakeYuque, tmp_path: Path) -> None:
    yuque.library.book("team/handbook").write("page", "text")
    yuque.moods.body = b"<html>log in, please</html>"
    async with handbook(yuque, tmp_path) as table:
        report = await table.attempt()
        assert "is not the JSON of the API" in str(report.error)
        assert "check url" in str(report.error)


async def test_the_token_goes_to_no_other_host(yuque: FakeYuque, tmp_path: Path) -> None:
    yuque.library.book("team/handbook").write("page", "text")
    yuque.moods.location = "https://elsewhere.example.com/api/v2/repos"
    async with handbook(yuque, tmp_path) as table:
        report = await table.attempt()
        assert "names another address, 'https://elsewhere.example.com/api/v2/repos'" in str(report.error)
        assert len(yuque.asked) == 1
