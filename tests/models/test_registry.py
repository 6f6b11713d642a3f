"""Backends are found by kind: the built-in ones always, others through their entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

from imc_agents.config.schema import BackendConfig
from imc_agents.errors import ConfigError
from imc_agents.models.protocol import Backend
from imc_agents.models.registry import backend_kinds, backend_settings, create_backend

MODULE = """
from pydantic import BaseModel
from imc_agents.models import openai

class Settings(BaseModel, extra="forbid"):
    port: int = 1

def create(model, options):
    return openai.create(model, {"base_url": f"http://127.0.0.1:{Settings(**options).port}/v1"})
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution with two entry points: one that works, and one that claims a built-in name."""
    (tmp_path / "imc_plugin_of_the_test.py").write_text(MODULE)
    info = tmp_path / "imc_plugin_of_the_test-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: imc-plugin-of-the-test\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[imc_agents.backends]\n"
        "mine = imc_plugin_of_the_test:create\n"
        "embedded = imc_plugin_of_the_test:create\n"
        "broken = imc_plugin_of_the_test:nothing\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plugin")
def test_a_third_party_backend_is_found_and_its_options_are_checked() -> None:
    assert isinstance(create_backend(BackendConfig(kind="mine", options={"port": 9})), Backend)
    assert set(backend_settings("mine").model_fields) == {"port"}
    with pytest.raises(ConfigError, match="has no option 'prot'; did you mean 'port'"):
        create_backend(BackendConfig(kind="mine", options={"prot": 9}))


@pytest.mark.usefixtures("plugin")
def test_a_built_in_kind_cannot_be_taken_over() -> None:
    assert backend_kinds()["embedded"] == "imc_agents.models.embedded:create"


@pytest.mark.usefixtures("plugin")
def test_a_broken_backend_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'broken' \(imc_plugin_of_the_test:nothing\) cannot be loaded"):
        create_backend(BackendConfig(kind="broken"))


def test_both_built_in_backends_fit_the_protocol() -> None:
    for kind in ("embedded", "openai"):
        assert isinstance(create_backend(BackendConfig(kind=kind)), Backend)
