"""The words that follow an image's name, by the conventions of the official image: for `container`, and the doctor."""

from __future__ import annotations

from pgidle.base.errors import SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BASE_ENTRYPOINT = "docker-entrypoint.sh"
NO_SERVER = ("--help", "-?", "--version", "-V", "--describe-config", "--single", "--boot", "--check")
"""With one of these words, or with `-C` and a name, `postgres` does something else than to serve."""
COMMANDS = ("run", "status", "health", "sleep", "wake", "hold", "release", "config", "init", "doctor")


def completed(words: Sequence[str]) -> list[str]:
    """With the program ahead of them: no words, or options alone, are for postgres."""
    return [*words] if words and not words[0].startswith("-") else ["postgres", *words]


def serves(words: Sequence[str]) -> bool:
    """Whether postgres would serve with these arguments."""
    return not any(word in NO_SERVER or word.startswith("-C") for word in words)


def refuse_own(words: Sequence[str]) -> None:
    """Options of pgidle's among Postgres's arguments would be refused by Postgres, far less clearly."""
    from pgidle.settings.options import OPTIONS
    from pgidle.settings.settings import OWN_FLAGS, OWN_PARAMETERS

    flags = {f"--{option.name}" for option in OPTIONS}
    previous = ""
    for word in words:
        name = word.partition("=")[0]
        own = OWN_FLAGS.get(word[:2]) or (name if name in flags else None)
        if previous == "-c" or word.startswith(("-c", "--")):
            setting = name.removeprefix("-c" if word.startswith("-c") else "--")
            own = OWN_PARAMETERS.get(setting.replace("-", "_").lower(), own)
        if own is not None:
            variable = next(option.variable for option in OPTIONS if own == f"--{option.name}")
            raise SettingsError(
                f"{word} is pgidle's own to set, and this goes to postgres",
                f"set {variable}, or write: pgidle run {own} ...",
            )
        previous = word
