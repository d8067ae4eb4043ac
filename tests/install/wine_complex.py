"""Gives Windows programs the functions of complex numbers that Wine's C library lacks: wine_complex.py FOLDER [FOLDER FOR THE DLL]

A library of its own has them, and hands on the other functions of mathematics; the programs that need one are changed to ask it instead.
Needs pefile and a compiler for Windows.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pefile

COMPILER = "x86_64-w64-mingw32-gcc"
THEIRS = b"api-ms-win-crt-math-l1-1-0.dll"
OURS = b"x" + THEIRS[1:]  # as long, so that it fits into its place
OF_ONE = ("acos", "asin", "atan", "cos", "cosh", "exp", "log", "sin", "sinh", "sqrt", "tan", "tanh")
TO_REAL = ("abs", "arg", "imag", "real")
PREAMBLE = """
#include <complex.h>
typedef struct { double re, im; } complex_;
typedef struct { float re, im; } complex_f;
static double _Complex in_(complex_ z) { double _Complex c; __real__ c = z.re; __imag__ c = z.im; return c; }
static double _Complex in_f(complex_f z) { double _Complex c; __real__ c = z.re; __imag__ c = z.im; return c; }
static complex_ out_(double _Complex c) { return (complex_){__real__ c, __imag__ c}; }
static complex_f out_f(double _Complex c) { return (complex_f){(float)__real__ c, (float)__imag__ c}; }
"""


def definitions() -> dict[str, str]:
    """C code by the name of the function; complex numbers are passed as Windows does it, which is not how the compiler does."""
    found = {}
    for end, real in (("", "double"), ("f", "float")):
        kind, into, out = f"complex_{end}", f"in_{end}", f"out_{end}"
        for name in OF_ONE:
            found[f"c{name}{end}"] = f"{kind} our_c{name}{end}({kind} z) {{ return {out}(c{name}({into}(z))); }}"
        for name in TO_REAL:
            found[f"c{name}{end}"] = f"{real} our_c{name}{end}({kind} z) {{ return ({real})c{name}({into}(z)); }}"
        found[f"cpow{end}"] = f"{kind} our_cpow{end}({kind} a, {kind} b) {{ return {out}(cpow({into}(a), {into}(b))); }}"
    return found


def asked_of_mathematics(path: Path) -> set[str]:
    """The functions that a program or library takes from Windows' library of mathematics."""
    try:
        program = pefile.PE(str(path), fast_load=True)
    except pefile.PEFormatError:
        return set()
    with program:
        program.parse_data_directories([pefile.DIRECTORY_ENTRY["IMAGE_DIRECTORY_ENTRY_IMPORT"]])
        tables = [table for table in getattr(program, "DIRECTORY_ENTRY_IMPORT", []) if table.dll.lower() == THEIRS]
        return {function.name.decode() for table in tables for function in table.imports if function.name}


def build(names: set[str], target: Path) -> None:
    ours = definitions()
    with tempfile.TemporaryDirectory() as folder:
        source, exports = Path(folder, "complex.c"), Path(folder, "complex.def")
        source.write_text(PREAMBLE + "\n".join(ours[name] for name in sorted(names & ours.keys())))
        lines = [f"  {name} = {f'our_{name}' if name in ours else f'ucrtbase.{name}'}" for name in sorted(names)]
        exports.write_text("\n".join([f"LIBRARY {OURS.decode()}", "EXPORTS", *lines]) + "\n")
        options = ["-O2", "-fno-builtin", "-shared", "-static-libgcc"]
        subprocess.run([COMPILER, *options, "-o", target, source, exports], check=True)


def main() -> None:
    folder, beside = Path(sys.argv[1]), Path(sys.argv[-1])
    found = {path: asked_of_mathematics(path) for path in (*folder.rglob("*.pyd"), *folder.rglob("*.dll"))}
    users = {path: names for path, names in found.items() if names & definitions().keys()}
    build(set().union(*users.values()), beside / OURS.decode())
    for path in users:
        content = path.read_bytes()
        assert content.count(THEIRS) == 1, path
        path.write_bytes(content.replace(THEIRS, OURS))


if __name__ == "__main__":
    main()
