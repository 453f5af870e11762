"""Compiles mujoco_py's extension against the MuJoCo 2.1.0 that the free-mujoco-py wheel carries, without OpenGL.

mujoco_py would compile itself at its first import, and asks for OSMesa, GL headers and patchelf. None of the tasks
draws anything, so this links the `nogl` build of MuJoCo instead, replaces the drawing functions it lacks by ones
that stop the process with a message, and puts the result where mujoco_py looks for a finished extension.

usage: python build_mujoco_py.py      (Linux; needs a C compiler, Cython < 3, numpy < 2, setuptools)
"""

import importlib.util
import re
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

import setuptools  # noqa: F401  (before Cython and numpy: it provides distutils from Python 3.12 on)
from Cython.Build import cythonize
from numpy import get_include
from setuptools import Distribution, Extension

DRAWING_STUB = """void {name}(void) {{
    fputs("mujoco_py was built without OpenGL: {name} is not available\\n", stderr);
    abort();
}}
"""


def package_folder() -> Path:
    """Folder of the installed mujoco_py, found without importing it: importing would start its own build."""
    spec = importlib.util.find_spec("mujoco_py")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("mujoco_py is not installed here: run scripts/setup_d4rl.sh, which installs free-mujoco-py")
    return Path(next(iter(spec.submodule_search_locations)))


def drawing_stubs(header: Path) -> str:
    """C source that defines every mjr_ and mjui_ function which the MuJoCo header declares."""
    names = sorted(set(re.findall(r"^MJAPI [^(]*?\b(mjr_\w+|mjui_\w+)\(", header.read_text(), re.MULTILINE)))
    return "#include <stdio.h>\n#include <stdlib.h>\n" + "".join(DRAWING_STUB.format(name=name) for name in names)


def finished_extension(package: Path) -> Path:
    """The path at which mujoco_py, told to use no GPU, looks for its extension."""
    version = runpy.run_path(str(package / "version.py"))["get_version"]()
    python = f"{sys.version_info.major}{sys.version_info.minor}"
    return package / "generated" / f"cymj_{version}_{python}_linuxcpuextensionbuilder_{python}.so"


def compile_extension(package: Path, folder: Path) -> Path:
    """Compiles cymj.pyx, with intermediate files in a scratch folder; returns the shared object."""
    mujoco = package / "binaries" / "linux" / "mujoco210"
    stubs = folder / "no_drawing.c"
    stubs.write_text(drawing_stubs(mujoco / "include" / "mujoco.h"))
    extension = Extension(
        "mujoco_py.cymj",
        sources=[str(package / "cymj.pyx"), str(package / "gl" / "dummyshim.c"), str(stubs)],
        include_dirs=[str(package), str(mujoco / "include"), get_include()],
        libraries=["mujoco210nogl"],
        library_dirs=[str(mujoco / "bin")],
        runtime_library_dirs=[str(mujoco / "bin")],
        extra_compile_args=["-O2", "-w", "-fopenmp"],
        extra_link_args=["-fopenmp"],
    )
    modules = cythonize([extension], force=True, quiet=True)
    distribution = Distribution({"ext_modules": modules})
    command = distribution.get_command_obj("build_ext")
    command.build_lib = command.build_temp = str(folder)
    command.ensure_finalized()
    command.run()
    (package / "cymj.c").unlink()  # Cython writes it beside the source
    return Path(command.get_outputs()[0])


def main() -> None:
    package = package_folder()
    target = finished_extension(package)
    with tempfile.TemporaryDirectory() as folder:
        target.parent.mkdir(exist_ok=True)
        shutil.copy(compile_extension(package, Path(folder)), target)
    print(f"built {target}")


if __name__ == "__main__":
    main()
