"""Make a C project of many files: ``project.py DIRECTORY FILES``.

Every file has different work for the compiler; the program at the end prints a number that
depends on all of them.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

MAKEFILE = """\
CFLAGS = -O1 -g0 -pipe
OBJECTS := $(patsubst %.c,%.o,$(sort $(wildcard part*.c)))

all: answer.txt
answer.txt: answer
\t./answer >$@.new && mv $@.new $@
answer: main.o libparts.a
\t$(CC) -o $@ $^
libparts.a: $(OBJECTS)
\trm -f $@
\tar rcsD $@ $^
%.o: %.c parts.h
\t$(CC) $(CFLAGS) -c -o $@ $<
clean:
\trm -f *.o *.a answer answer.txt
.PHONY: all clean
.DELETE_ON_ERROR:
"""


def main() -> None:
    directory, files = Path(sys.argv[1]), int(sys.argv[2])
    directory.mkdir()
    dice = random.Random(1)
    (directory / "Makefile").write_text(MAKEFILE)
    declarations = [f"unsigned part{n}(unsigned x);\n" for n in range(files)]
    (directory / "parts.h").write_text("".join(declarations))
    for n in range(files):
        (directory / f"part{n}.c").write_text(part(n, dice))
    calls = "".join(f"    x = part{n}(x);\n" for n in range(files))
    (directory / "main.c").write_text(
        '#include <stdio.h>\n#include "parts.h"\n'
        f'int main(void)\n{{\n    unsigned x = 1;\n{calls}    printf("%u\\n", x);\n'
        "    return 0;\n}\n"
    )


def part(number: int, dice: random.Random) -> str:
    """One file: functions that call each other, with loops, switches and tables."""
    text = ['#include <stdlib.h>\n#include <string.h>\n#include "parts.h"\n']
    for n in range(12):
        table = ", ".join(str(dice.getrandbits(32)) + "u" for _ in range(16))
        cases = "".join(
            f"        case {case}:\n            x *= {dice.getrandbits(16) | 1}u;\n"
            f"            x += x >> {case + 1};\n            break;\n"
            for case in range(8)
        )
        before = f"f{n - 1}(x ^ i)" if n else "x"
        text.append(
            f"static unsigned f{n}(unsigned x)\n{{\n"
            f"    static const unsigned table[16] = {{{table}}};\n"
            "    for (unsigned i = 0; i < 3; i++) {\n"
            f"        switch ((x + i) % 9) {{\n{cases}        default: x ^= table[x % 16];\n"
            f"        }}\n        if (i == 2)\n            x += {before};\n    }}\n"
            "    return x;\n}\n"
        )
    text.append(f"unsigned part{number}(unsigned x)\n{{\n    return f11(x);\n}}\n")
    return "\n".join(text)


main()
