"""Every console session in the README and in docs/ is run, and prints what the page shows."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest

from tests.docs.console import Block, blocks, check, commands, missing

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_page(page: Path, tmp_path: Path) -> None:
    if (ROOT / "examples").is_dir():
        shutil.copytree(ROOT / "examples", tmp_path / "examples")
    problems = check(page, tmp_path)
    assert not problems, "\n\n".join(problems)


PAGE = """
```yaml title="sub/a.yaml"
key: 1
```
```console
$ cat sub/a.yaml
key: 1
$ printf 'one  two\\nthree\\n'; exit 3
# exits 3
...
three
```
```sh
$ false
```
"""


def test_files_are_written_and_commands_run(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert check(page, tmp_path) == []
    page.write_text(PAGE.replace("key: 1\n$", "key: 2\n$"))
    assert "page.md:6" in check(page, tmp_path)[0]
    page.write_text(PAGE.replace("# exits 3\n", ""))
    assert "exited 3, not 0" in check(page, tmp_path)[0]


@pytest.mark.parametrize("kind", ["console", "console terminal"])
def test_only_terminal_blocks_see_a_terminal(tmp_path: Path, kind: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"```{kind}\n$ test -t 1 && echo person || echo pipe\nperson\n```\n")
    assert bool(check(page, tmp_path)) is (kind == "console")


def test_a_command_may_go_over_several_lines() -> None:
    (found,) = commands(Block("console", False, None, ("$ imc noise text \\", "    x", "out"), 1))
    assert found.line == "imc noise text x"
    assert found.shown == ["out"]


@pytest.mark.parametrize(
    ("shown", "absent"),
    [
        (["a b", "c"], None),
        (["c", "a b"], "a b"),
        (["a"], "a"),
        (["...b"], None),
        (["...", "c"], None),
    ],
)
def test_lines_must_appear_whole_and_in_order(shown: list[str], absent: str | None) -> None:
    assert missing(shown, "a   b\nx\nc\n") == absent


def test_blocks_know_language_title_and_place() -> None:
    first, second, third = blocks(PAGE)
    assert (first.language, first.title, first.number) == ("yaml", "sub/a.yaml", 2)
    assert (second.language, second.title) == ("console", None)
    assert third.language == "sh"


def test_nothing_listens_at_the_addresses_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        page.write_text(
            f"""
```text title="address"
{address}
```
```console
$ exec 3<>/dev/tcp/$(sed s,:,/, address)
# exits 1
$ cat address
{address}
```
"""
        )
        assert check(page, tmp_path) == []
