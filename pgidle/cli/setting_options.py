"""Options of the settings table, as click has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgidle.settings.options import OPTIONS, Kind

if TYPE_CHECKING:
    from pgidle.settings.options import Option

METAVARS = {
    Kind.ENDPOINT: "HOST:PORT",
    Kind.MANY: "FIELD=VALUE",
    Kind.NO_WAKE: "NETWORK|FOLDER",
    Kind.RECEIVER: "PROGRAM|URL",
}


def setting_options(*names: str) -> list[click.Parameter]:
    """Options of the settings table, all or those named. A command that takes them as its `params` finds those that
    were given in the dictionary `ctx.obj`, by name."""
    return [_click_option(option) for option in OPTIONS if not names or option.name in names]


def _click_option(option: Option) -> click.Option:
    def keep(context: click.Context, _: click.Parameter, value: object) -> None:
        given = context.ensure_object(dict)
        if value not in (None, ()):
            given[option.name] = value

    default = option.default or option.unset
    choices = "|".join(choice.value for choice in option.choices)
    variables = ", ".join((option.variable, *option.env))
    return click.Option(
        [f"--{option.name}", *option.flags, option.field],
        metavar=choices or METAVARS.get(option.kind, option.kind.name),
        multiple=option.is_repeatable,
        help=f"{option.help}  [{f'default: {default}; ' if default else ''}{variables}]",
        expose_value=False,
        callback=keep,
    )
