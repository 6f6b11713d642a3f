"""The texts of classes: the built-in ones, those of users, and what is wrong with a file or does not fit the data."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_agents.adapt.class_prompts import FILE_NAME, load_class_prompts
from imc_agents.data.sets.published import published
from imc_agents.errors import ConfigError, UsageError
from imc_agents.prompts import list_prompts, prompt_folders

BUILT_IN = prompt_folders()[-1] / FILE_NAME
BOTH = ("normal", "pneumonia")
DEFAULT = 'default:\n  templates: ["{{ class }} of {{ dataset }}"]\n'


@pytest.fixture
def load(tmp_path):
    def _load(text: str, classes=BOTH, name="mine"):
        (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
        return load_class_prompts(name, classes, tmp_path / "own.yaml")

    return _load


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        (name, known.classes)
        for family in ("medmnist", "medimeta-c")
        for name, known in published(family).items()
    ],
)
def test_the_built_in_prompts_fit_what_is_published(name, classes):
    prompts = load_class_prompts(name, classes, BUILT_IN)
    assert len(prompts.texts) == len(classes)
    for texts in prompts.texts:
        assert all(text.startswith("a medical image of ") and " belonging to " in text for text in texts)


def test_a_set_without_an_entry_has_the_published_template_with_its_names():
    prompts = load_class_prompts("mine", BOTH, BUILT_IN)
    assert prompts.texts == (
        ("a medical image of normal belonging to mine",),
        ("a medical image of pneumonia belonging to mine",),
    )


def test_templates_are_filled_with_all_phrases_of_a_class(load):
    prompts = load(
        "mine:\n  title: My Data\n  templates: ['{{ class }}', 'an x-ray of {{ class }}, {{ dataset }}']\n"
        "  classes:\n    pneumonia: [pneumonia, an infection]\n    normal: [healthy lungs]\n"
    )
    assert prompts.texts == (
        ("healthy lungs", "an x-ray of healthy lungs, My Data"),
        ("pneumonia", "an infection", "an x-ray of pneumonia, My Data", "an x-ray of an infection, My Data"),
    )
    assert prompts.source.name == "own.yaml"


def test_phrases_are_data_and_may_be_whole_sentences(load):
    text = "mine:\n  templates: ['{{ class }}']\n  classes:\n"
    prompts = load(
        text + "    normal: ['Clear lungs. {{ dataset }} {% if %}']\n    pneumonia: [Consolidation.]\n"
    )
    assert prompts.texts == (("Clear lungs. {{ dataset }} {% if %}",), ("Consolidation.",))


def test_templates_may_decide_and_white_space_is_one_blank(load):
    prompts = load(
        "default:\n  templates:\n    - |\n      {% if class == 'normal' %}\n      healthy\n      {% else %}\n"
        "      {{ class }}\n      {% endif %}\n      in {{ dataset }}\n"
    )
    assert prompts.texts == (("healthy in mine",), ("pneumonia in mine",))


def test_the_digest_is_of_names_and_texts(load):
    first = load(DEFAULT)
    assert load(DEFAULT + "# a comment\nother:\n  title: Other\n").digest == first.digest
    assert load(DEFAULT + "mine:\n  title: Mine\n").digest != first.digest
    assert load(DEFAULT, tuple(reversed(BOTH))).digest != first.digest
    renamed = load(DEFAULT + "mine:\n  classes: {a: [normal], b: [pneumonia]}\n", ("a", "b"))
    assert renamed.texts == first.texts
    assert renamed.digest != first.digest
    assert len(first.digest) == 64


def test_the_working_directory_goes_before_the_package_and_other_prompts_do_not_notice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_class_prompts("mine", BOTH).source == BUILT_IN
    before = list_prompts()
    Path("prompts").mkdir()
    (Path("prompts") / FILE_NAME).write_text(DEFAULT)
    prompts = load_class_prompts("mine", BOTH)
    assert prompts.texts == (("normal of mine",), ("pneumonia of mine",))
    assert prompts.source == Path("prompts") / FILE_NAME
    assert list_prompts() == before
    assert "class_prompts" not in before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mine:\n  titel: x\n", "own.yaml:2: unknown key 'titel' in 'mine'; did you mean 'title'?"),
        (
            "mine:\n  colour: x\n",
            "own.yaml:2: unknown key 'colour' in 'mine'; there are title, templates, classes",
        ),
        ("default:\n  title: x\n", "own.yaml:2: unknown key 'title' in 'default'; there are templates"),
        ("mine: pneumonia\n", "own.yaml:1: 'mine' needs keys below it: title, templates, classes"),
        ("mine:\n  title: 3\n", "own.yaml:2: title must be text, not 3"),
        ("mine:\n  templates: '{{ class }}'\n", "own.yaml:2: templates must be a list of texts"),
        ("mine:\n  templates: []\n", "own.yaml:2: templates must be a list of texts"),
        ("mine:\n  templates: [3]\n", "own.yaml:2: templates must be texts (in quotes where needed), not 3"),
        (
            "\nmine:\n  templates: ['{{ clas }}']\n",
            "own.yaml:3: unknown variable 'clas' in the template '{{ clas }}'; did",
        ),
        (
            "mine:\n  templates: ['{{ organ }}']\n",
            "unknown variable 'organ' in the template '{{ organ }}'; there are class",
        ),
        (
            "mine:\n  templates: [an image]\n",
            "own.yaml:2: the template 'an image' does not use 'class', so all",
        ),
        (
            "mine:\n  templates: ['{{ dataset }}']\n",
            "does not use 'class', so all classes would get the same text",
        ),
        ("mine:\n  templates: ['{{ class }']\n", "own.yaml:2: not a valid template"),
        ("mine:\n  templates: ['{{ class.__class__ }}']\n", "own.yaml:2: access to attribute '__class__'"),
        ('mine:\n  templates: ["# User\\n{{ class }}"]\n', "has headings; write plain text"),
        ("mine:\n  templates: ['{{ class[9:] }}']\n", "a template comes to nothing with the phrase 'normal'"),
        ("mine:\n  classes:\n", "own.yaml:2: classes of 'mine' must be names with their phrases"),
        (
            "mine:\n  classes:\n    normal: healthy\n",
            "own.yaml:3: the phrases of 'normal' must be a list of texts",
        ),
        ("mine:\n  classes:\n    normal: ['']\n", "own.yaml:3: the phrases of 'normal' must be texts"),
        ("mine:\n  classes:\n    0: [healthy]\n", "own.yaml:3: a key must be text, not 0; put it in quotes"),
        (
            "mine:\n  title: Mine\n",
            "own.yaml:1: no templates for 'mine'; add 'templates' to its entry, or an entry",
        ),
        ("", "own.yaml: no templates for 'mine'"),
        ("mine: [\n", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_line(load, text, problem):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert problem in str(caught.value)


def test_a_wrong_entry_of_another_set_is_found_too(load):
    with pytest.raises(
        ConfigError, match=r"own\.yaml:4: unknown key 'clases' in 'other'; did you mean 'classes'"
    ):
        load(DEFAULT + "other:\n  clases: {}\n")


@pytest.mark.parametrize(
    ("entry", "classes", "problem"),
    [
        (
            "{normal: [x], pnuemonia: [y]}",
            BOTH,
            "own.yaml:3: the classes of 'mine' are not those of the data: no phrases for 'pneumonia', which the data "
            "has and phrases for 'pnuemonia', which the data does not have; did you mean 'pneumonia'?",
        ),
        (
            "{normal: [x]}",
            BOTH,
            "no phrases for 'pneumonia', which the data has; the data has: 'normal', 'pneumonia'",
        ),
        (
            "{normal: [x], pneumonia: [y], viral: [z]}",
            BOTH,
            "phrases for 'viral', which the data does not have; the data has: 'normal', 'pneumonia'",
        ),
        (
            "{normal: [x], pneumonia: [x]}",
            BOTH,
            "the classes 'normal' and 'pneumonia' of 'mine' have the same texts",
        ),
        (
            "",
            ("0", "1"),
            "own.yaml:3: the class '0' of 'mine' is only a number, which tells an encoder nothing",
        ),
    ],
)
def test_classes_that_do_not_fit_the_data_are_refused(load, entry, classes, problem):
    text = DEFAULT + (f"mine:\n  classes: {entry}\n" if entry else "mine:\n  title: Mine\n")
    with pytest.raises(UsageError) as caught:
        load(text, classes)
    assert problem in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_class_prompts("mine", BOTH, tmp_path / "none.yaml")
