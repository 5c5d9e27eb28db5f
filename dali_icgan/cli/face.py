"""What all commands have in common: how they name a device, and how they say what went wrong."""

import re
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

_CALLERS_MISTAKES = (ValueError, TypeError, LookupError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


class OneLineErrors(TyperGroup):
    """Says what went wrong in one line: exit code 2 where the caller is wrong, 1 where the machine is."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):  # click ends quietly where nobody reads on
            raise
        except KeyboardInterrupt:
            typer.secho("stopped; the same command goes on, where it can", err=True)
            raise typer.Exit(130) from None
        except (*_CALLERS_MISTAKES, OSError, RuntimeError, ArithmeticError, ImportError, MemoryError) as error:
            if ctx.params.get("debug"):
                raise
            said = " ".join(str(error).split()) or type(error).__name__
            typer.secho(f"error: {said}", fg=typer.colors.RED, err=True)
            raise typer.Exit(2 if isinstance(error, _CALLERS_MISTAKES) else 1) from error


def _device(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise typer.BadParameter(f"must be cpu, cuda or cuda:N, got {name}")
    return name


Device = Annotated[
    str | None, typer.Option(callback=_device, help="cpu, cuda or cuda:N.", show_default="cuda where there is one")
]
