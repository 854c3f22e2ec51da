"""The shape of the code itself: who imports whom, where encodings may be named, how long modules are (DESIGN 1)."""

import ast
import importlib
from pathlib import Path

import pytest

from spiking.registry import ALIASES, ENCODINGS

ROOT = Path(__file__).parents[1]
TOP_LEVEL = {"ann_training", "conversion", "experiment", "optimization", "plotting"}
# module -> modules of this project it may import when it is imported
MAY_IMPORT = {
    "spiking": set(),
    "ann_training": {"spiking"},
    "plotting": set(),
    "conversion": {"spiking"},
    "experiment": {"spiking", "conversion", "ann_training"},
    "optimization": {"spiking", "conversion", "ann_training", "experiment"},
}
# What knows nothing of spikes takes from `spiking` only what knows nothing of them either.
ONLY_FROM_SPIKING = {
    "ann_training": {
        "spiking.checks", "spiking.shown", *(f"spiking.runs.{name}" for name in ("devices", "files", "sources"))
    },
    "plotting": set(),
}
# What may be imported when a function is called: slow to load, or not always installed. Nothing of this project but
# plotting, which loads matplotlib.
MAY_IMPORT_LATER = {"plotting", "matplotlib", "nir", "optuna", "tensorboard", "pandas"}
ENCODING_MODULES = {type(code).__module__.removeprefix("spiking.") for code in ENCODINGS.values()}
# ttfs_clamped is ttfs with another ANN activation, ttfs_dynthresh is ttfs with another threshold
MAY_IMPORT_ENCODINGS = {"ttfs_clamped": {"ttfs"}, "ttfs_dynthresh": {"ttfs"}}
ENCODING_NAMES = {*ENCODINGS, *ALIASES}

SPIKING = sorted((ROOT / "spiking").rglob("*.py"))
OUTSIDE = [path for path in sorted(ROOT.glob("*.py")) if path.stem in TOP_LEVEL]


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def modules_of(node):
    """The dotted names an import statement may bind or load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            base = f"spiking.{base}".rstrip(".")
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "own":
        return [node.args[0].value]  # spiking.runs.siblings.own("plotting")
    return []


def imports(tree):
    """(dotted name, whether at import time) of every import in a module."""
    found = []

    def visit(node, at_import):
        for child in ast.iter_child_nodes(node):
            found.extend((name, at_import) for name in modules_of(child))
            visit(child, at_import and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    visit(tree, True)
    return found


def project_imports(path):
    own = {(name.split(".")[0], early) for name, early in imports(parse(path))}
    return {(name, early) for name, early in own if name in MAY_IMPORT}


@pytest.mark.parametrize("path", [*SPIKING, *OUTSIDE], ids=lambda path: path.stem)
def test_imports_run_one_way(path):
    module = "spiking" if path in SPIKING else path.stem
    allowed = MAY_IMPORT[module] | {module}
    early = {name for name, at_import in project_imports(path) if at_import}
    assert early <= allowed, f"{path.name} imports {early - allowed}"


@pytest.mark.parametrize("path", [*SPIKING, *OUTSIDE], ids=lambda path: path.stem)
def test_nothing_is_imported_at_call_time(path):
    late = {name.split(".")[0] for name, at_import in imports(parse(path)) if not at_import}
    found = late - MAY_IMPORT_LATER
    assert not found, f"{path.name} imports {found} in a function"


def dotted(path):
    """spiking/runs/files.py -> spiking.runs.files; benchmarks and examples import one another by their stems."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "spiking" else parts[-1:]).removesuffix(".__init__")


def import_graph():
    """Module -> modules of the project that it imports, when it is imported or later, the benchmarks included."""
    scripts = [path for folder in ("benchmarks", "examples") for path in sorted((ROOT / folder).glob("*.py"))]
    paths = {dotted(path): path for path in [*scripts, *SPIKING, *OUTSIDE]}
    graph = {}
    for module, path in paths.items():
        names = [name for name, _ in imports(parse(path))]
        # Of `from a import b` both "a" and "a.b" are named: the longest one that is a module counts.
        longer = {name.rpartition(".")[0] for name in names if name in paths}
        graph[module] = {name for name in names if name in paths and name not in longer} - {module}
    return graph


def circles(graph):
    """Pairs of a graph that reach one another."""
    reached = {node: set(targets) for node, targets in graph.items()}
    for middle in graph:
        for node in graph:
            if middle in reached[node]:
                reached[node] |= reached[middle]
    return {tuple(sorted((a, b))) for a in graph for b in reached[a] if a in reached.get(b, ()) and a != b}


def folder_of(module):
    """The room of a module: its folder in `spiking/`, or itself."""
    return ".".join(module.split(".")[:2])


def test_no_module_is_in_a_circle():
    assert circles(import_graph()) == set()


def test_no_folder_is_in_a_circle():
    rooms = {}
    for module, targets in import_graph().items():
        if module != "spiking":  # passes on what users take
            reached = {folder_of(target) for target in targets} - {folder_of(module)}
            rooms.setdefault(folder_of(module), set()).update(reached)
    assert circles(rooms) == set()


def test_circles_are_seen():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert import_graph()["optimization"] >= {"experiment", "spiking.runs.study", "spiking.runs.screen"}


@pytest.mark.parametrize("module", ONLY_FROM_SPIKING)
def test_what_knows_nothing_of_spikes_takes_only_checks_and_the_writer(module):
    nodes = [node for node in ast.walk(parse(ROOT / f"{module}.py")) if isinstance(node, ast.Import | ast.ImportFrom)]
    taken = {modules_of(node)[0] for node in nodes}
    assert {name for name in taken if name.split(".")[0] == "spiking"} == ONLY_FROM_SPIKING[module]


def test_imports_are_seen():
    tree = ast.parse("import a.b\nfrom c import d\ndef f():\n    from . import e\n    own('h')\nif x:\n    import g\n")
    expected = [("a.b", True), ("c", True), ("c.d", True), ("spiking", False), ("spiking.e", False), ("h", False)]
    assert imports(tree) == [*expected, ("g", True)]


@pytest.mark.parametrize("name", sorted(ENCODING_MODULES))
def test_encodings_do_not_import_one_another(name):
    path = ROOT / "spiking" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"{path.name} is not written yet")
    loaded = {dotted.split(".")[1] for dotted, _ in imports(parse(path)) if dotted.startswith("spiking.")}
    found = loaded & ENCODING_MODULES - {name}
    assert found <= MAY_IMPORT_ENCODINGS.get(name, set())


def strings_in(node):
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def name_comparisons(tree):
    """Lines that compare with an encoding's name: ==, in, match, startswith, or a key of a table looked up by it."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            compared = strings_in(node)
        elif isinstance(node, ast.match_case):
            compared = strings_in(node.pattern)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("startswith", "endswith")
        ):
            compared = {text for text in strings_in(node) if "ttfs" in text or text == "rate"} and ENCODING_NAMES
        else:
            continue
        if compared & ENCODING_NAMES:
            lines.append(getattr(node, "lineno", None) or node.pattern.lineno)
    return lines


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.stem)
def test_no_encoding_is_compared_by_name_outside_spiking(path):
    assert name_comparisons(parse(path)) == []


@pytest.mark.parametrize(
    "code",
    [
        "if encoding == 'rate': pass",
        "x = 1 if 'ttfs' != name else 2",
        "if name in ('ttfs', 'ttfs_exact'): pass",
        "if name.startswith('ttfs_'): pass",
        "match name:\n    case 'ttfs_clamped' | 'other': pass",
    ],
)
def test_comparisons_are_seen(code):
    assert name_comparisons(ast.parse(code))


@pytest.mark.parametrize("path", SPIKING, ids=lambda path: path.stem)
def test_spiking_modules_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.stem)
def test_top_level_modules_are_not_too_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 900


def test_functions_are_short():
    """At most 60 lines, docstring included; ruff holds their complexity to 12 (C901)."""
    folders = [ROOT / name for name in ("spiking", "benchmarks", "examples", "tests")]
    paths = [*OUTSIDE, *(path for folder in folders for path in folder.rglob("*.py"))]
    functions = [(path, node) for path in paths for node in ast.walk(parse(path)) if isinstance(node, ast.FunctionDef)]
    lengths = {f"{path.name}: {node.name}": node.end_lineno - node.lineno + 1 for path, node in functions}
    assert len(lengths) > 1000
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_no_further_module_at_the_top_level():
    assert {path.stem for path in ROOT.glob("*.py")} <= TOP_LEVEL


def test_no_package_shadows_spiking():
    assert not list((ROOT / "tests").rglob("__init__.py"))


@pytest.mark.parametrize("path", [*SPIKING, *OUTSIDE], ids=lambda path: path.stem)
def test_no_print_in_library_code(path):
    """`main`, the command line, may print; the library logs or returns."""
    tree = parse(path)
    allowed = {
        id(call)
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name == "main"
        for call in ast.walk(function)
    }
    prints = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
        and id(node) not in allowed
    ]
    assert prints == []


SPOKEN = [path for path in [*OUTSIDE, *SPIKING] if path.parent.name == "runs" or path in OUTSIDE]


@pytest.mark.parametrize("path", [path for path in SPOKEN if path.stem != "__init__"], ids=lambda path: path.stem)
def test_modules_name_what_is_public(path):
    module = importlib.import_module(dotted(path))
    assert module.__all__ and not [name for name in module.__all__ if not hasattr(module, name)]
