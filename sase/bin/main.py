"""``sase A [B]`` runs ``sase.bin.A`` or ``sase.bin.A_B``; errors that users can fix are one line, no traceback."""

from __future__ import annotations

import importlib
import io
import os
import pkgutil
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import sase.bin
from sase.errors import InputError
from sase.processes import terminated_as_exit


def run(main: Callable[[], Any], name: str) -> NoReturn:
    """Call ``main()`` and exit: 0 on success, 1 with one line for bad input or an OSError, 130 on Ctrl-C.

    SIGTERM and SIGHUP end it with status 143 and 129 after cleaning up: temporary files are deleted. Characters that
    the terminal's encoding lacks are escaped. ``SASE_DEBUG=1`` in the environment shows the traceback instead.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with terminated_as_exit():
            sys.exit(main())
    except (InputError, OSError) as error:
        if os.environ.get("SASE_DEBUG") == "1":
            raise
        sys.exit(f"sase {name}: {' '.join(str(error).split())}")
    except ModuleNotFoundError as error:
        if (error.name or "sase").startswith("sase"):
            raise
        from sase.extras import missing_package

        sys.exit(f"sase {name}: {missing_package(error.name or '')}")
    except KeyboardInterrupt:
        sys.exit(130)


def main() -> None:
    """Dispatch on the first argument."""
    names = sorted(module.name for module in pkgutil.iter_modules(sase.bin.__path__) if module.name != "main")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        lines = [f"  {_words(name):<13} {_first_line(name)}" for name in names]
        print("usage: sase COMMAND [options]; see sase COMMAND --help\n\n" + "\n".join(lines))
        sys.exit(0 if len(sys.argv) > 1 else 1)
    if sys.argv[1] == "--version":
        print(sase.__version__)
        sys.exit(0)
    name = sys.argv.pop(1)
    if (longer := "_".join([name, *sys.argv[1:2]])) in names and longer != name:
        name = longer
        del sys.argv[1]
    if name not in names:
        sys.exit(f"sase: no such command: {name}; choose from {', '.join(names)}")
    sys.argv[0] = f"sase {_words(name)}"
    run(importlib.import_module(f"sase.bin.{name}").main, _words(name))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _first_line(name: str) -> str:
    return (importlib.import_module(f"sase.bin.{name}").__doc__ or "").partition("\n")[0]


if __name__ == "__main__":
    main()
