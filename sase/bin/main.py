"""``sase A ...`` runs ``sase.bin.A``, or ``sase.bin.A_B`` for a B; what a user can mend is told in one line."""

import importlib
import os
import pkgutil
import sys

import sase.bin
from sase.errors import InputError


def run(main, name):
    """Call ``main()`` and exit: 0 when it returns, 1 with one line for bad input or a failing disk, 130 on Ctrl-C.

    ``SASE_DEBUG=1`` in the environment shows the traceback as well.
    """
    try:
        sys.exit(main())
    except (InputError, OSError) as error:
        if os.environ.get("SASE_DEBUG") == "1":
            raise
        sys.exit(f"sase {name}: {' '.join(str(error).split())}")
    except ModuleNotFoundError as error:
        if (error.name or "sase").startswith("sase"):
            raise
        sys.exit(f"sase {name}: needs the package {error.name}, which the recipes use: pip install 'sase[recipe]'")
    except KeyboardInterrupt:
        sys.exit(130)


def main():
    """Dispatch on the first argument."""
    names = sorted(module.name for module in pkgutil.iter_modules(sase.bin.__path__) if module.name != "main")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        lines = [f"  {_words(name):<13} {_first_line(name)}" for name in names]
        print("usage: sase COMMAND [options]; sase COMMAND --help tells more\n\n" + "\n".join(lines))
        sys.exit(0 if len(sys.argv) > 1 else 1)
    if sys.argv[1] == "--version":
        print(sase.__version__)
        sys.exit(0)
    name = sys.argv.pop(1)
    if (longer := "_".join([name, *sys.argv[1:2]])) in names and longer != name:
        name = longer
        del sys.argv[1]
    if name not in names:
        sys.exit(f"sase: no such command: {name}; there are {', '.join(names)}")
    sys.argv[0] = f"sase {_words(name)}"
    run(importlib.import_module(f"sase.bin.{name}").main, _words(name))


def _words(name):
    return name.replace("_", " ")


def _first_line(name):
    return importlib.import_module(f"sase.bin.{name}").__doc__.splitlines()[0]


if __name__ == "__main__":
    main()
