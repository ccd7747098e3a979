"""The words after an image's name, by the official image's conventions, for `image_entrypoint` and the doctor."""

from __future__ import annotations

from pgidle.base.errors import SettingsError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

BASE_ENTRYPOINT = "docker-entrypoint.sh"
NO_SERVER = ("--help", "-?", "--version", "-V", "--describe-config", "--single", "--boot", "--check")
"""With one of these words, or with `-C` and a name, `postgres` does something other than serve clients."""
COMMANDS = (
    *("run", "status", "top", "history", "health", "metrics", "sleep", "wake", "hold", "release"),
    *("config", "init", "doctor"),
)


def completed(words: Sequence[str]) -> list[str]:
    """The words with a program in front: postgres, if there are no words or only options."""
    return [*words] if words and not words[0].startswith("-") else ["postgres", *words]


def serves(words: Sequence[str]) -> bool:
    """Whether postgres would serve with these arguments."""
    return not any(word in NO_SERVER or word.startswith("-C") for word in words)


def refuse_own(words: Sequence[str]) -> None:
    """Raise SettingsError if Postgres's arguments set what is pgidle's own to set. The hint names the variable, since
    nobody wrote `pgidle run` here."""
    from pgidle.settings.resolve import own_argument

    if (found := own_argument(words)) is not None:
        said, option = found
        raise SettingsError(
            f"{said} is pgidle's own to set, and this goes to postgres",
            f"set {option.variable}, or write: pgidle run --{option.name} ...",
        )
