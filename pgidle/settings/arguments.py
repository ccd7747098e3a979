"""The arguments of `pgidle run`, read without click, whose import alone would be felt in a cold wake.

Only what is certain is read here. Anything else (help, an unknown option, a missing value, a value that looks
like an option) is None, and the caller asks click, which understands it or prints what is wrong. Where `fast`
answers, it answers as click does.
"""

from __future__ import annotations

from pgidle.base.record import record
from pgidle.settings.options import OPTIONS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgidle.settings.options import Options


@record
class Arguments:
    """The arguments of `run`: options by name (repeatable ones with every value), and what goes to postgres."""

    options: Options
    postgres_args: tuple[str, ...] = ()


def fast(argv: Sequence[str]) -> Arguments | None:
    """Read what follows `run`; None if anything is less than certain."""
    flags = {flag: option for option in OPTIONS for flag in (f"--{option.name}", *option.flags)}
    options: dict[str, str | tuple[str, ...]] = {}
    rest = iter(argv)
    for argument in rest:
        if argument == "--":
            break
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
        else:
            flag, equals, value = argument[:2], argument[2:], argument[2:]
        option = flags.get(flag)
        if not equals:
            value = next(rest, "")
        if option is None or not value or value.startswith(("-", "=")):
            return None
        if option.is_repeatable:
            options[option.name] = (*options.get(option.name, ()), value)
        else:
            options[option.name] = value
    return Arguments(options, tuple(rest))
