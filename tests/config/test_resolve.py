from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imc_agents.config.dump import dump_yaml
from imc_agents.config.load import resolve
from imc_agents.config.schema import Config
from imc_agents.errors import ConfigError


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def _write(text: str, name: str = "imc.yaml") -> Path:
        Path(name).write_text(text, encoding="utf-8")
        return Path(name)

    return _write


def problems(*args, **kwargs) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        resolve(*args, **kwargs)
    return str(caught.value).splitlines()


def test_each_layer_wins_over_the_one_below_and_the_shadowed_ones_are_told(write):
    low = write("run:\n  concurrency: 2\n", "low.yaml")
    high = write("# a comment\n\nrun:\n  concurrency: 3\n", "high.yaml")
    environ = {"IMC_RUN__CONCURRENCY": "4", "HOME": "/", "IMC_DEBUG": "1"}
    resolved = resolve("fast", [low, high], ["run.concurrency=5", "run.concurrency=6"], environ)
    assert resolved.config.run.concurrency == 6
    origin = resolved.origins["run.concurrency"]
    assert (origin.where, origin.value) == ("--set", 6)
    assert [(under.where, under.value) for under in origin.shadowed] == [
        ("--set", 5),
        ("env IMC_RUN__CONCURRENCY", 4),
        ("high.yaml:4", 3),
        ("low.yaml:2", 2),
        ("default", 128),
    ]


def test_profile_origins_and_extension(write):
    origins = resolve("fast").origins
    assert origins["sms.critique.max_rounds"].where == "profile:fast"
    assert origins["roles.spelling.channel"].where == "profile:default"
    assert origins["seed"].where == "default"


def test_a_file_names_its_profile_and_the_flag_wins(write):
    path = write("profile: fast\n")
    assert resolve(files=[path]).profile == "fast"
    assert resolve("thorough", [path]).config.sms.critique.max_rounds == 3
    assert resolve(environ={"IMC_PROFILE": "fast"}).profile == "fast"
    empty = write("profile:\n", "empty.yaml")
    assert resolve(files=[empty]).profile == "default"
    assert resolve(files=[path, empty]).profile == "fast", "an empty heading changes nothing"


def test_profiles_are_what_they_promise():
    fast, thorough = resolve("fast").config, resolve("thorough").config
    assert (fast.sms.critique.mode, fast.sms.critique.max_rounds) == ("none", 1)
    assert fast.sms.adjudicate.judge == "none"
    assert (thorough.sms.perceive.judgement, thorough.sms.adjudicate.judge) == ("model", "meaning")
    assert (thorough.sms.supervisor.mode, thorough.sms.critique.mode) == ("generate", "model")
    assert thorough.roles["grammar"].enabled
    assert not fast.roles["grammar"].enabled


def test_mappings_merge_and_lists_replace(write):
    path = write("roles:\n  spelling:\n    handles: [typo, ocr]\nguard: {protected_terms: [Whipple]}\n")
    config = resolve(files=[path]).config
    assert config.roles["spelling"].handles == ("typo", "ocr")
    assert config.roles["spelling"].channel == "keyboard"
    assert config.guard.protected_terms == ("Whipple",)


def test_null_removes_a_role_and_a_later_layer_may_add_it_again(write):
    path = write("roles:\n  spelling: null\n")
    assert "spelling" not in resolve(files=[path]).config.roles
    again = "roles.spelling={kind: specialist, source: lexicon, channel: ocr, handles: [ocr]}"
    role = resolve(files=[path], overrides=[again]).config.roles["spelling"]
    assert role.channel == "ocr"
    assert role.description == ""


def test_headings_without_keys_change_nothing(write):
    path = write(
        "run:\nsms:\n  perceive:\nroles:\n  spelling:\n    sampling:\nbackends:\n  default:\n    kind: embedded\n"
    )
    assert resolve(files=[path]).config == resolve().config


def test_every_problem_is_listed_with_place_and_nearest_name(write):
    path = write(
        "run:\n"
        "  concurency: 8\n"
        "  timeout_seconds: soon\n"
        "concurrency: 3\n"
        "guard: 5\n"
        "roles:\n"
        "  spelling: {handles: typo, chanel: ocr}\n"
        "  speling: null\n"
        "sms:\n"
        "  critique: {mode: likelyhood, max_rounds: 99}\n"
        "profile: fats\n"
    )
    lines = problems(files=[path], overrides=["seed", "seed=true"], environ={"IMC_RUN__KEEP_PROMTS": "1"})
    assert set(lines) == {
        "imc.yaml:2: unknown key 'concurency' in 'run'; did you mean 'concurrency'?",
        "imc.yaml:3: run.timeout_seconds must be a number, not 'soon'",
        "imc.yaml:4: unknown key 'concurrency'; did you mean 'run.concurrency'?",
        "imc.yaml:5: guard needs keys below it, not 5",
        "imc.yaml:7: unknown key 'chanel' in 'roles.spelling'; did you mean 'channel'?",
        "imc.yaml:7: roles.spelling.handles must be a list, e.g. [a, b], not 'typo'",
        "imc.yaml:8: nothing to remove: no role is named 'speling'; did you mean 'spelling'?",
        "imc.yaml:10: sms.critique.mode must be one of none, likelihood, model, not 'likelyhood'; "
        "did you mean 'likelihood'?",
        "imc.yaml:10: sms.critique.max_rounds must be at most 8, not 99",
        "imc.yaml:11: unknown profile 'fats'; did you mean 'fast'?",
        "--set seed: needs key=value, e.g. --set run.concurrency=8",
        "--set: seed must be a whole number, not true",
        "env IMC_RUN__KEEP_PROMTS: unknown key 'keep_promts' in 'run'; did you mean 'keep_prompts'?",
    }


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("roles.spelling.channel=keybord", "unknown channel 'keybord'; did you mean 'keyboard'?"),
        ("roles.spelling.channel=null", "roles.spelling needs a channel because its source is a lexicon"),
        ("roles.grammar.channel=ocr", "roles.grammar.channel is for specialists with source: lexicon only"),
        ("roles.critique.channel=ocr", "roles.critique.channel is for specialists with source: lexicon only"),
        ("roles.grammar.prompt=null", "roles.grammar needs a prompt because its source is the model"),
        ("roles.spelling.backend=defalt", "no backend is named 'defalt'; did you mean 'default'?"),
        ("roles.critique.enabled=false", "one enabled role must be critic; enable roles.critique"),
        (
            "roles.perceive=null",
            "one enabled role must be perceiver; add one under roles with kind: perceiver",
        ),
        ("roles.second={kind: critic}", "only one enabled role may be critic, not critique, second"),
        ("roles.critique.handles=[typo]", "roles.critique.handles is for specialists only"),
        ("roles.spelling.handles=[]", "roles.spelling.handles is empty"),
        (
            "roles.Bad-Name={kind: specialist, prompt: x, handles: [typo]}",
            "role name 'Bad-Name' is not allowed",
        ),
        ("backends.default=null", "backends.default is missing"),
        ("sms.graph=graphs", "sms.graph must be module:function"),
        ("roles.x={}", "roles.x.kind is missing"),
        ("seed=", "seed must be a whole number, not null"),
        ("seed=[1", "--set seed=[1: not valid YAML"),
        ("=1", "needs key=value"),
    ],
)
def test_rules_between_keys(override, problem):
    lines = problems(overrides=[override])
    assert len(lines) == 1
    assert problem in lines[0]
    assert lines[0].startswith(("--set", "profile:default"))


def test_without_profile_there_are_no_roles():
    assert len(problems("none")) == 4


def test_missing_and_unreadable_files_are_told_together(write, tmp_path):
    (tmp_path / "bad.yaml").write_bytes(b"seed: 1\nrun: {directory: \xff}\n")
    lines = problems(files=[Path("nope.yaml"), tmp_path, tmp_path / "bad.yaml"])
    assert lines[0] == "nope.yaml: no such file"
    assert lines[1].startswith(f"{tmp_path}: cannot be read")
    assert lines[2] == f"{tmp_path}/bad.yaml:2: not UTF-8 text; save the file as UTF-8"


_OPTIONS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**40), 2**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(
        ["no", "1e-3", "0o17", "null", "~", "1:30", "2024-01-01", "<<", "", " x", "# y", "a: b"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(
    options=st.dictionaries(st.text("abc.1- ", min_size=1, max_size=5), _OPTIONS, max_size=4), data=st.data()
)
def test_a_dumped_configuration_loads_back_equal(options, data, tmp_path_factory):
    base = resolve(data.draw(st.sampled_from(["default", "fast", "thorough"]))).config.model_dump(mode="json")
    base["backends"]["default"]["options"] = options
    base["run"]["error_threshold"] = data.draw(st.floats(0, 1))
    base["roles"].pop("spelling")
    base["roles"]["critique"]["description"] = data.draw(st.text(st.characters(exclude_categories=["Cs"])))
    config = Config.model_validate(base)
    path = tmp_path_factory.mktemp("dump") / "config.yaml"
    path.write_text(dump_yaml(config), encoding="utf-8")
    resolved = resolve(files=[path])
    assert resolved.config == config
    assert resolved.profile == "none"


def test_every_variable_that_the_code_reads_is_a_key_or_known_to_be_none():
    import re

    import imc_agents
    from imc_agents.config.layers import environment_names

    package = Path(imc_agents.__file__).parent
    sources = [*package.rglob("*.py"), package.parent / "cli.py"]
    read = {name for path in sources for name in re.findall(r"get\(\s*\"(IMC_\w+)\"", path.read_text())}
    assert {"IMC_CACHE", "IMC_DEBUG"} <= read
    assert environment_names(dict.fromkeys(read, "1")) == []
