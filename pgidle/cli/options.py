"""Options of the settings table, as click has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pgidle.settings.options import OPTIONS, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgidle.settings.options import Option

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

METAVARS = {Kind.ENDPOINT: "HOST:PORT", Kind.MANY: "FIELD=VALUE", Kind.NO_WAKE: "NETWORK|FOLDER"}


def _click_option(option: Option) -> Decorator:
    default = option.default or option.unset
    choices = "|".join(choice.value for choice in option.choices)
    variables = ", ".join((option.variable, *option.env))
    return click.option(
        f"--{option.name}",
        *option.flags,
        option.field,
        metavar=choices or METAVARS.get(option.kind, option.kind.name),
        multiple=option.is_repeatable,
        help=f"{option.help}  [{f'default: {default}; ' if default else ''}{variables}]",
    )


def setting_options(*names: str) -> Decorator:
    """Options of the settings table, all or some. The command gets one dictionary of what was given."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        chosen = [option for option in OPTIONS if not names or option.name in names]

        def command(**given: Any) -> None:
            options = {each.name: given.pop(each.field) for each in chosen}
            function({name: value for name, value in options.items() if value not in (None, ())}, **given)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        for option in reversed(chosen):
            _click_option(option)(command)
        return command

    return decorate
