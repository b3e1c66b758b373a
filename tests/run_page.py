"""Run a page's Python blocks, given as JSON on stdin, and compare what they print with what they say."""

import contextlib
import io
import json
import re
import sys
import traceback
from types import ModuleType


def namespace() -> dict[str, object]:
    """Return the namespace of a new module, where `typing` and pickle find it by its name."""
    module = sys.modules["page"] = ModuleType("page")
    return module.__dict__


def main() -> int:
    given = json.load(sys.stdin)
    names = namespace()
    for block in given["blocks"]:
        names = namespace() if given["alone"] else names
        where = f"{given['page']}:{block['line']}"
        printed = io.StringIO()
        try:
            # Blank lines before it, so that a traceback has the page's line numbers.
            code = compile("\n" * (block["line"] - 1) + block["text"], given["page"], "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, names)
        except BaseException:
            sys.stderr.write(f"{where} fails:\n{traceback.format_exc()}")
            return 1
        said = re.findall(r"^# >(?: (.*))?$", block["text"], flags=re.MULTILINE)
        if said and printed.getvalue().splitlines() != said:
            sys.stderr.write(f"{where} prints, other than it says:\n{printed.getvalue()}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
