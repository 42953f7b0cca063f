"""What holds for the project as a whole: who imports whom, what is imported at all, what is in the wheel."""

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import calibrant

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "calibrant"

# A room imports itself and rooms of a lower floor. Two rooms of one floor do not know each other.
FLOORS = (
    {"core"},
    {"settings", "data"},
    {"sketches"},
    {"graph", "observers"},
    {"quantizers", "engines"},
    {"passes", "exporters"},
    {"analysis", "modules"},
    {"table"},
    {"auto", "distributed", "precision"},
    {"quantization"},
    {"api", "advice"},
    {"cli"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """The dotted names of what a file imports, wherever in it; of `from a import b` both a and a.b."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            modules |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules


def imported_rooms(path: Path) -> set[str]:
    """The rooms that a file imports."""
    names = {name.split(".")[1] for name in imported_modules(path) if name.startswith("calibrant.")}
    return names & FLOOR.keys()


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if path.parent != SOURCE or not path.stem.startswith("__")]


def test_every_room_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_imports_point_down(room):
    for path in FILES:
        if room_of(path) == room:
            up = {other for other in imported_rooms(path) if other != room and FLOOR[other] >= FLOOR[room]}
            assert not up, f"{path.relative_to(ROOT)} imports {up}"


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/design.md"])
def test_pages_tell_these_floors(page):
    (chain,) = [line for line in (ROOT / page).read_text(encoding="utf-8").splitlines() if line.endswith("→ core")]
    assert [set(floor.split(", ")) for floor in chain.strip().split(" → ")] == list(reversed(FLOORS))


def test_the_design_has_a_row_for_every_room():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(FLOOR)


def test_nothing_imports_the_demo_or_the_benchmarks():
    for path in [*FILES, SOURCE / "__init__.py"]:
        first = {name.split(".")[0] for name in imported_modules(path)}
        assert not first & {"demo", "benchmarks"}, path.relative_to(ROOT)


def extras() -> set[str]:
    """The modules of the extras that users install, as pyproject.toml has them; named as their distributions are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [names for extra, names in project["optional-dependencies"].items() if extra not in ("dev", "docs")]
    return {match[0] for names in groups for name in names if (match := re.match(r"\w+", name))}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_importing_is_light():
    assert not modules_after("import calibrant") & {*extras(), "onnxruntime", "numba", "onnx", "PIL"}


def test_the_whole_road_needs_no_extra():
    names = ", ".join(sorted(calibrant.__all__))
    loaded = modules_after(f"from calibrant import {names}\nimport calibrant.cli.job")
    assert "onnxruntime" in loaded
    assert extras() >= {"bokeh", "matplotlib", "openvino", "pyarrow", "ray", "torch"}
    assert not loaded & {*extras(), "pandas", "tensorrt"}


def test_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert calibrant.__version__ == project["version"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_wheel_holds_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {"calibrant/py.typed", "calibrant/analysis/report/page.html", "calibrant/analysis/report/page.js"} <= set(
        names
    )
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {"calibrant", f"calibrant-{calibrant.__version__}.dist-info"}
    assert not [name for name in names if name.endswith((".jpg", ".png", ".nbi", ".nbc", ".pyc"))]


def test_every_committed_photo_names_its_author_and_licence():
    photos = ROOT / "demo" / "photos"
    page = (photos / "LICENSES.md").read_text(encoding="utf-8")
    rows = {cells[1].strip(): cells[3].strip() for line in page.splitlines() if len(cells := line.split("|")) == 6}
    files = {str(path.relative_to(photos).as_posix()) for path in photos.rglob("*.jpg")}
    assert files == rows.keys() - {"photo", "---"}
    assert {rows[file] for file in files} <= {
        "public domain",
        "CC0 1.0",
        "CC BY 1.0",
        "CC BY 2.0",
        "CC BY 3.0",
        "CC BY 4.0",
    }
    assert sum(path.stat().st_size for path in photos.rglob("*")) < 10e6
