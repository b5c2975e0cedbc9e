"""A module imports only from its own layer and from those below, without circles; and functions stay short."""

import ast
import graphlib
import re
from pathlib import Path

import xent

ROOT = Path(__file__).parents[2] / "src"
LAYERS = ["_core", "_kernels", "_calls", "_fit", "_estimator"]      # from below; the public modules are above
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.glob("xent/**/*.p*")) if path.suffix in (".py", ".pyx", ".pxd", ".pxi")
}       # fmt: skip
TEXTS = {module: path.read_text("utf-8") for module, path in FILES.items()}
TREES = {module: ast.parse(TEXTS[module]) for module, path in FILES.items() if path.suffix == ".py"}


def layer_of(module):
    part = module.split(".")[1] if "." in module else ""
    return next((i for i, layer in enumerate(LAYERS) if part.startswith(layer)), len(LAYERS))


def find_imports(module):
    """The modules of xent that a file imports, cimports or includes, at its top or in a function."""
    if module not in TREES:
        yield from re.findall(r"^from (xent\.\S+) c?import", TEXTS[module], re.MULTILINE)
        files = re.findall(r'^include "(\S+)\.px.', TEXTS[module], re.MULTILINE)
        yield from ("xent." + name.replace("/", ".") for name in files)
    for node in ast.walk(TREES.get(module, ast.Module([], []))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom) and node.module in FILES:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in FILES else node.module for name in names)


def test_layers():
    imports = {module: set(find_imports(module)) - {module} for module in FILES}
    pairs = [(a, b) for a, found in imports.items() for b in sorted(found)]
    assert "\n".join(f"{a} imports {b}" for a, b in pairs if layer_of(b) > layer_of(a)) == ""
    graphlib.TopologicalSorter(imports).prepare()       # an error names the modules of a circle


def count_lines(text):
    """Lines that are neither empty nor comments."""
    return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def find_functions(module):
    """Name, lines of code and number of parameters of every function."""
    for node in ast.walk(TREES.get(module, ast.Module([], []))):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = TEXTS[module].splitlines()[body[0].lineno - 1 : body[-1].end_lineno] if body else []
            yield node.name, count_lines("\n".join(lines)), len(node.args.args + node.args.kwonlyargs)
    if module not in TREES:
        text = re.sub(r'"""(.|\n)*?"""', '""', TEXTS[module])
        for match in re.finditer(r"^( *)(?:cdef|cpdef|def) [^\n=]*?(\w+)\(([^)]*)\)[^\n]*:$", text, re.MULTILINE):
            body = re.match(rf"(\n|{match[1]} +\S.*\n)*", text[match.end() + 1 :])[0]
            parameters = re.sub(r"\[[^]]*\]", "", match[3])     # of double[:, ::1] x, one
            yield match[2], count_lines(body), parameters.count(",") + bool(parameters.strip())


def test_functions_are_short():
    """At most 60 lines, and 8 parameters but for public functions and those that take the arguments of one."""
    found = [(module, *function) for module in FILES for function in find_functions(module)]
    long = [f"{module}.{name} has {lines} lines" for module, name, lines, _ in found if lines > 60]
    private = [f for f in found if layer_of(f[0]) < len(LAYERS) and f[1].removeprefix("plain_") not in xent.__all__]
    wide = [f"{module}.{name} has {number} parameters" for module, name, _, number in private if number > 8]
    assert "\n".join(long + wide) == ""
