import json
import re
from functools import reduce
from pathlib import Path

from imc_agents.config.dump import json_schema
from imc_agents.config.keys import describe, schema_keys
from imc_agents.config.layers import profile_layers, profiles
from imc_agents.config.load import resolve
from imc_agents.config.schema import BackendConfig, Config, RoleConfig
from imc_agents.config.template import commented_yaml

ROOT = Path(__file__).parents[2]


def test_every_key_has_a_meaning():
    assert [key for key in schema_keys() if not describe(key)] == []


def reference_table() -> str:
    """The table of all keys as docs/configuration.md should show it."""
    examples = Config(roles={"*": RoleConfig(kind="specialist")}, backends={"*": BackendConfig()})
    defaults = examples.model_dump(mode="json")
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key in schema_keys():
        value = reduce(lambda section, part: section[part], key.split("."), defaults)
        plain = not isinstance(value, dict) or key.endswith(".options")
        shown = value if isinstance(value, str) else json.dumps(value)
        cell = f"`{shown}`" if plain and shown and key != "roles.*.kind" else ""
        rows.append(f"| `{key}` | {cell} | {describe(key)} |")
    return "\n".join(rows) + "\n"


def test_the_reference_page_is_true():
    page = (ROOT / "docs" / "configuration.md").read_text()
    table = page.partition("## All keys")[2].partition("\n\n")[2].partition("\n\n")[2]
    assert table == reference_table(), f"put this table into docs/configuration.md:\n{reference_table()}"


def test_the_template_shows_every_key_and_sets_nothing(tmp_path):
    path = tmp_path / "imc.yaml"
    text = commented_yaml(resolve().config)
    path.write_text(text)
    assert resolve(files=[path]).config == resolve().config
    assert resolve("thorough", files=[path]).config == resolve("thorough").config
    for key in schema_keys():
        name = key.rpartition(".")[2]
        assert re.search(rf"^ *(# )?(- )?(sampling\.)?{name}( -|:)", text, re.M), key


def test_the_template_with_every_key_uncommented_is_the_default(tmp_path):
    for profile in profiles():
        path = tmp_path / f"{profile}.yaml"
        config = resolve(profile).config
        text = re.sub(r"^( *)# ([a-z_]+: )", r"\1\2", commented_yaml(config), flags=re.M)
        path.write_text(text)
        assert resolve(files=[path]).config == config
        # Of what the profile sets, nothing is left to it.
        assert resolve("fast", files=[path]).config.sms == config.sms


def test_every_key_of_the_profiles_is_commented():
    for name in profiles():
        lines = (ROOT / "imc_agents/config/profiles" / f"{name}.yaml").read_text().splitlines()
        explained = {m[1] for line in lines if (m := re.match(r" *([a-z_]+):.* # ", line))}
        for line in lines:
            match = re.match(r" +([a-z_]+): \S", line)
            # A key of a role is explained where it stands first; a description explains itself.
            assert match is None or match[1] == "description" or match[1] in explained, (name, line)


def test_the_default_profile_names_all_specialists_of_the_catalogue():
    roles = profile_layers("default")[0].value["roles"].value
    assert {"spelling", "ocr", "dictation", "spacing", "shorthand", "grammar", "relevance"} <= set(roles)


def test_the_schema_lets_a_file_set_part_of_a_role_or_remove_it():
    schema = json_schema()
    entry = schema["properties"]["roles"]["additionalProperties"]
    assert {"type": "null"} in entry["anyOf"]
    assert "required" not in schema["$defs"]["RoleConfig"]
    assert schema["properties"]["profile"]["enum"] == ["default", "fast", "thorough", "none"]
    assert schema["additionalProperties"] is False
