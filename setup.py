"""Only what pyproject.toml cannot say yet: which file describes the cffi extension, and that the wheel has it not."""

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Leaves out of the wheel what only builds the extension, and could not do that without the C files beside it."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        found = super().find_package_modules(package, package_dir)
        return [module for module in found if module[1] != "build_uring"]


setup(
    cffi_modules=["ringserve/ring/uring/build_uring.py:ffibuilder"],
    cmdclass={"build_py": BuildPy},
    # The extension uses the stable ABI only, so one wheel serves every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
