from __future__ import annotations

import asyncio
import csv
import json
import signal
import subprocess
import sys
import time
from hashlib import sha256
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from imc_agents.bench.baselines import correct_with_pyspellchecker, correct_with_symspell
from imc_agents.bench.errata import errata
from imc_agents.bench.methods import Restored
from imc_agents.bench.questions import Question, load_questions, parse_data
from imc_agents.bench.text import CLEAN, Cell, CellRun, Plan, Sample, TextRun, make_plan, run_text_bench
from imc_agents.bench.text_measures import Summary
from imc_agents.bench.text_store import CellStore
from imc_agents.bench.text_summary import guard_checker, summarise
from imc_agents.bench.text_tables import text_tables
from imc_agents.config.schema import Config
from imc_agents.errors import UsageError
from imc_agents.noise.text import Slip

ROOT = Path(__file__).parents[2]
TEXTS = (
    "Is there evidence of an aortic aneurysm?",
    "Where is the lesion in the brain?",
    "What organ is shown in this image?",
    "Is the heart enlarged?",
    "Does the picture contain the left kidney?",
)


def question(text: str, *, dataset: str = "vqa-rad", erratum: bool = False) -> Question:
    return Question(dataset, sha256(text.encode()).hexdigest()[:16], text, erratum)


def published(folder: Path, name: str, texts: tuple[str, ...], **fields: str) -> Path:
    rows = [{"question": text, **fields} for text in texts]
    (folder / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_questions_are_distinct_english_and_in_an_order_of_their_own(tmp_path: Path):
    published(tmp_path, "validate.json", (TEXTS[0], TEXTS[1], TEXTS[0].upper()))
    forward = load_questions("slake", tmp_path)
    published(tmp_path, "validate.json", (TEXTS[1], TEXTS[0]))
    assert [q.id for q in load_questions("slake", tmp_path)] == [q.id for q in forward]
    assert len(forward) == 2
    published(tmp_path, "train.json", ("肺里有肿块吗?",), q_lang="zh")
    assert len(load_questions("slake", tmp_path)) == 2
    published(tmp_path, "train.json", TEXTS)
    assert [q.text for q in load_questions("slake", tmp_path, 3)][:2] == [q.text for q in forward]


def test_bad_data_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="did you mean 'slake'"):
        parse_data([f"slack={tmp_path}"])
    with pytest.raises(UsageError, match="name=PATH"):
        parse_data(["slake"])
    with pytest.raises(UsageError, match="does not exist"):
        parse_data([f"slake={tmp_path / 'none'}"])
    with pytest.raises(UsageError, match=r"expected validate\.json or train\.json"):
        load_questions("slake", tmp_path)
    (tmp_path / "validate.json").write_text('[{"question": 3}]')
    with pytest.raises(UsageError, match="entry 1 has no text"):
        load_questions("slake", tmp_path)


def test_errata_know_the_slips_of_the_data_sets():
    rad = errata("vqa-rad")
    assert rad.holds("Is this a saggital view?")
    assert rad.mend("Saggital view of the the brain ?") == "Sagittal view of the brain?"
    assert not rad.holds("Is this a sagittal view?")
    assert not errata("slake").holds("Is this a saggital view?")
    assert errata("slake").mend("Does the picture contain brian?") == "Does the picture contain brain?"


@pytest.mark.parametrize("correct", [correct_with_symspell, correct_with_pyspellchecker])
def test_baselines_correct_words_and_keep_the_rest(correct):
    assert correct("Is there a fractre (MRI, T2)?") == "Is there a fracture (MRI, T2)?"
    assert correct("The patient's x-ray:  no mass.") == "The patient's x-ray:  no mass."


def test_symspell_splits_and_joins_words():
    assert correct_with_symspell("Isthere a lesion inthe brain?") == "Is there a lesion in the brain?"


def run_bench(methods: list[str], kinds: list[str], seeds: tuple[int, ...] = (0,)) -> list[Summary]:
    plan = make_plan({"vqa-rad": [question(text) for text in TEXTS]}, kinds, [2], methods, seeds)
    return summarise(asyncio.run(run_text_bench(plan, Config())), guard_checker(Config()))[0]


def test_baselines_end_to_end():
    summaries = run_bench(["identity", "symspell", "pyspellchecker"], ["typo", "spacing"], (0, 1))
    by = {(s.method, s.cell.kind): s for s in summaries}
    identity = by["identity", "typo"]
    assert identity.questions == 10
    assert identity.restoration
    assert (identity.restoration.altered, identity.restoration.exact) == (10, 0)
    assert identity.restoration.word_error_rate_after == identity.restoration.word_error_rate_before > 0
    assert by["identity", CLEAN].damage.kept == 5
    assert by["symspell", "typo"].restoration.exact >= 5
    assert by["symspell", "spacing"].restoration.exact > by["pyspellchecker", "spacing"].restoration.exact
    assert by["identity", "typo"].safety.against_noisy == 0
    assert by["identity", "typo"].cost.calls == 0


def test_the_same_run_twice_gives_the_same_numbers():
    def numbers() -> list[object]:
        return [
            (s.cell, s.method, s.restoration, s.damage) for s in run_bench(["identity", "symspell"], ["typo"])
        ]

    assert numbers() == numbers()


def broken_if_no_is_lost(before: str, after: str) -> tuple[str, ...]:
    return ("negation: no",) if "no" in before.split() and "no" not in after.split() else ()


def measured(cell: Cell, rows: list[tuple[Sample, Restored, Restored]]) -> dict[str, Summary]:
    """Summaries of two methods, imc and other, that restored samples as given."""
    plan = Plan({cell: tuple(sample for sample, _, _ in rows)}, ("other", "imc"))
    run = TextRun(
        plan,
        {
            (cell, "imc"): CellRun(tuple(imc for _, imc, _ in rows), 2.0),
            (cell, "other"): CellRun(tuple(other for _, _, other in rows), 1.0),
        },
        {"vqa-rad": 5.0},
    )
    return {summary.method: summary for summary in summarise(run, broken_if_no_is_lost)[0]}


def test_what_is_counted_where():
    cell = Cell("vqa-rad", "typo", 2)
    clean = question("Is there no mass in the saggital view?", erratum=True)
    noisy = Sample(clean, "Is there no mas in the saggital view?", (), 0)
    untouched = Sample(question("Is it CT?"), "Is it CT?", (), 0)
    found = measured(
        cell,
        [
            (
                noisy,
                Restored("Is there no mass in the sagittal view?", calls=3, prompt_tokens=90),
                Restored(noisy.noisy),
            ),
            (
                noisy,
                Restored(clean.text, calls=1, prompt_tokens=30),
                Restored("Is there mass in the saggital view?"),
            ),
            (untouched, Restored("Is it CT?"), Restored("Is it CT?", error="model_error")),
        ],
    )
    imc, other = found["imc"], found["other"]
    assert (imc.restoration.altered, imc.restoration.exact, imc.restoration.mended) == (2, 1, 1)
    assert imc.restoration.exact_of_all == pytest.approx(2 / 3)
    assert imc.cost.calls == pytest.approx(4 / 3)
    assert imc.cost.prompt_tokens == 40
    assert imc.cost.per_second == 1.5
    assert (other.safety.against_noisy, other.safety.against_clean, other.safety.added) == (1, 1, 1)
    assert other.safety.meaning == 1
    assert imc.safety.added == 0
    assert other.safety.errors == 1
    assert imc.best_baseline == "other"
    assert (imc.against_best.first, imc.against_best.second) == (1, 0)


def test_clinical_look_alikes_are_counted_apart():
    cell = Cell("vqa-rad", "asr", 2)
    clean = question("Is the ileum dilated?")
    slip = Slip(7, 12, "ileum", "ilium", "sound_alike", 0.1)
    sample = Sample(clean, "Is the ilium dilated?", (slip,), 0)
    kept, back = Restored(sample.noisy), Restored(clean.text)
    flagged = Restored(sample.noisy, ("look_alike:ilium/ileum",))
    found = measured(
        cell, [(sample, flagged, kept), (sample, flagged, back), (sample, kept, Restored("Is it?"))]
    )
    assert found["imc"].restoration.altered == 0
    looks = found["imc"].look_alikes
    assert (looks.cases, looks.flagged, looks.unchanged, looks.restored, looks.swapped) == (3, 2, 1, 0, 0)
    looks = found["other"].look_alikes
    assert (looks.cases, looks.flagged, looks.unchanged, looks.restored, looks.swapped) == (3, 0, 1, 1, 1)


def test_clean_questions_with_slips_of_their_own_are_told_apart():
    cell = Cell("vqa-rad", CLEAN, 0)
    slip, sound = question("A saggital view?", erratum=True), question("A view?")
    fixed = Restored("A sagittal view?")
    samples = [Sample(slip, slip.text, (), 0), Sample(sound, sound.text, (), 0)]
    damage = measured(cell, [(samples[0], fixed, fixed), (samples[1], Restored("A view?"), fixed)])[
        "imc"
    ].damage
    assert (damage.kept, damage.sound, damage.sound_kept) == (1, 1, 1)


@pytest.mark.parametrize("width", [80, 160])
def test_tables_fit_and_show_every_method_and_noise(width: int):
    summaries = run_bench(["identity", "symspell"], ["typo", "ocr", "drop_shuffle", "irrelevant", "casing"])
    out = StringIO()
    Console(file=out, width=width).print(text_tables(summaries, width))
    shown = out.getvalue()
    assert all(
        name in shown for name in ("identity", "symspell", "drop_shuffle", "irrelevant", "clean", "sound")
    )
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="did you mean 'symspell'"):
        asyncio.run(run_text_bench(make_plan({"x": [question("a")]}, [], [2], ["symspel"]), Config()))
    with pytest.raises(UsageError, match="did you mean 'typo'"):
        make_plan({"x": [question("a")]}, ["typos"], [2], ["identity"])
    with pytest.raises(UsageError, match="nothing to run"):
        make_plan({"x": [question("a")]}, ["typo"], [2], [])


def test_the_command_writes_lines_and_files(tmp_path: Path):
    published(tmp_path, "validate.json", TEXTS)
    out = tmp_path / "out"
    done = subprocess.run(
        f"{sys.executable} cli.py bench text --limit 4 --methods identity,symspell --kinds typo,asr"
        f" --severities 1,3 --data slake={tmp_path} --output {out}".split(),
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == (1 + 2 * 2) * 2
    assert json.loads((out / "summary.json").read_text())["summaries"][0]["questions"] == 4
    with (out / "summary.csv").open(newline="") as file:
        assert [row["method"] for row in csv.DictReader(file)] == [row["method"] for row in rows]
    cases = [json.loads(line) for line in (out / "cases.jsonl").read_text().splitlines()]
    assert len(cases) == 10 * 4
    assert all(case["noisy"] != case["clean"] for case in cases if case["kind"] == "typo")
    assert out.stat().st_mode & 0o077 == 0


def bench_command(*arguments: str) -> list[str]:
    return [sys.executable, "cli.py", "bench", "text", *arguments]


def test_a_benchmark_that_is_cut_short_keeps_what_it_measured_and_goes_on(tmp_path: Path):
    published(tmp_path, "validate.json", TEXTS)
    out = tmp_path / "out"
    # Long enough that the signal comes in the middle, however busy the machine is.
    much = "--methods identity,pyspellchecker --kinds typo,ocr --severities 1,2,3,4,5 --seeds 40"
    options = f"{much} --data slake={tmp_path} -o {out}".split()
    process = subprocess.Popen(bench_command(*options), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    first = out / "cells" / "slake.clean.0.identity.json"
    while not first.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told.splitlines()[-1] == f"interrupted; go on with: imc bench text --resume {out}"
    assert not (out / "summary.json").exists()
    kept = first.stat().st_mtime_ns

    def again(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = bench_command(*arguments)
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)

    refused = again(*options)
    assert refused.returncode == 2
    assert f"--resume {out}" in refused.stderr
    refused = again("--resume", str(out), "--limit", "3")
    assert refused.returncode == 2
    assert "leave out --limit" in refused.stderr
    done = again("--resume", str(out))
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2 * (1 + 2 * 5)
    assert first.stat().st_mtime_ns == kept, "a finished part was run again"
    assert len(json.loads((out / "summary.json").read_text())["summaries"]) == 2 * (1 + 2 * 5)


def test_nothing_to_resume_is_said(tmp_path: Path):
    with pytest.raises(UsageError, match=r"options\.json: there is no such file"):
        CellStore(tmp_path).options()


@pytest.mark.parametrize("word", ["fractre", "pneumnothorax", "thigns", "xqzfhtrb", "abdmoenn", "ca", "1e5"])
def test_the_quick_search_finds_what_pyspellchecker_finds(word: str):
    from spellchecker import SpellChecker

    assert correct_with_pyspellchecker(word) == (SpellChecker().correction(word) or word)


def test_rows_measures_a_stream():
    command = [sys.executable, "cli.py", "bench", "rows", "--rows", "300"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    record = json.loads(done.stdout)
    assert record["rows"] == 300
    assert {point["stage"] for point in record["points"]} == {"refine", "export"}
    assert len(done.stderr.splitlines()) == len(record["points"])
