"""The real ``imc serve`` with the fake server in place of vLLM's: python -m tests.serving.scripted serve ..."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cli
from imc_agents.models.vllm_launch import EngineSettings
from imc_agents.serving import launch

FAKE = Path(__file__).with_name("fake_server.py")


def fake_command_line(location, name, port, flags, extra=()):
    return (sys.executable, str(FAKE), str(port), os.environ["FAKE_SERVER"])


if __name__ == "__main__":
    launch.command_line = fake_command_line
    launch.installed_build = lambda: "cpu"
    launch.engine_settings = lambda location, **_: EngineSettings(cpu=True, arguments={})
    cli.main()
