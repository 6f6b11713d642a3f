"""Options that several benchmarks share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "DataOption",
    "NoiseOption",
    "QuestionsOption",
    "SeverityOption",
    "chosen_texts",
    "names",
    "numbers",
    "places",
]

DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=PATH",
        help="vqa-rad or slake and its folder or file; repeatable; default those in $IMC_SHARED/data.",
    ),
]
QuestionsOption = Annotated[
    Path | None,
    typer.Option("--questions", metavar="FILE", help="Questions instead of --data: what `imc refine` reads."),
]
NoiseOption = Annotated[
    str, typer.Option("--noise", help="Noise over the questions; `none` leaves them as they are.")
]
SeverityOption = Annotated[int, typer.Option("--severity", help="1 to 5.")]


def places(data: list[str] | None) -> dict[str, Path]:
    """Return where each data set is, from ``--data`` or from the usual place.

    Raises:
        UsageError: there is none.
    """
    from imc_agents.bench.questions import default_data, parse_data
    from imc_agents.errors import UsageError

    found = parse_data(data) if data else default_data()
    if not found:
        raise UsageError("no data: give --data vqa-rad=FOLDER or --data slake=FOLDER, or set IMC_SHARED")
    return found


def chosen_texts(
    data: list[str] | None, questions: Path | None, limit: int, noise: str, severity: int
) -> list[str]:
    """Return the noisy questions that the options choose, the same share of each data set.

    Raises:
        UsageError: there are none, or the noise is unknown.
    """
    from imc_agents.bench.embedded import noisy_texts, read_texts
    from imc_agents.bench.questions import load_questions

    if questions is not None:
        texts = read_texts(questions, limit)
    else:
        sets = places(data)
        share = -(-limit // len(sets))
        texts = [q.text for name, place in sets.items() for q in load_questions(name, place, share)][:limit]
    return noisy_texts(texts, None if noise == "none" else noise, severity)


def names(listed: str) -> tuple[str, ...]:
    """Return the names in a list by comma, each once."""
    return tuple(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def numbers(listed: str, option: str, wanted: str) -> tuple[int, ...]:
    """Return the numbers in a list by comma, each once.

    Args:
        listed: The list.
        option: The option that it was given to.
        wanted: What the option takes, for the error.

    Raises:
        UsageError: something in it is no number.
    """
    from imc_agents.errors import UsageError

    try:
        return tuple(int(number) for number in names(listed))
    except ValueError:
        raise UsageError(f"{option} {listed!r}: write {wanted}") from None
