import pytest

from imc_agents.config.yaml_nodes import parse_value, parse_yaml, plain
from imc_agents.errors import ConfigError


def test_values_follow_the_core_schema():
    text = "a: no\nb: 1e-3\nc: 010\nd: 0x1f\ne: 1:30\nf: 2024-01-01\ng: ~\nh: TRUE\ni: '5'\n"
    assert plain(parse_yaml(text, "f")) == {
        "a": "no", "b": 0.001, "c": 10, "d": 31, "e": "1:30", "f": "2024-01-01", "g": None, "h": True, "i": "5",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "\n# only a comment\n", "---\n", "~"])
def test_an_empty_file_sets_nothing(text):
    assert plain(parse_yaml(text, "f")) == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\nb: 2", "f:2:2: not valid YAML"),
        ("\ta: 1", "f:1:1: not valid YAML"),
        ("a: 1\n---\nb: 1", "f:2:1: not valid YAML"),
        ("a: 1\nb:\n  c: 1\n  c: 2", "f:4: 'c' stands twice, first at f:3"),
        ("1: x", "f:1: a key must be text, not 1"),
        ("[1]: x", "f:1: a key must be text, not a list or mapping"),
        ("a: !!python/name:os.system", "f:1: tag"),
        ("a: !mine {b: 1}", "f:1: tag '!mine' is not allowed"),
        ("a: .inf", "f:1: '.inf' is no number"),
        ("a: !!int x", "f:1: 'x' is no number"),
        ("- a", "f:1: needs keys and values"),
        ("a: \x01", "f: not valid YAML: it holds a control character"),
        ("a: " + "[" * 3000 + "]" * 3000, "f: nested too deeply"),
        ("a: &a {b: *a}", "f: nested too deeply"),
    ],
)
def test_bad_yaml_is_told_with_its_place(text, problem):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f")
    assert str(caught.value).startswith(problem)


def test_aliases_that_multiply_are_stopped():
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9))
    with pytest.raises(ConfigError, match="aliases repeat too much"):
        parse_yaml(f"l0: &l0 [x, x]\n{levels}", "f")


def test_a_value_that_is_not_text_at_all_is_an_error():
    with pytest.raises(ConfigError, match="--set x: not valid YAML"):
        parse_value("\udcff", "--set x")
