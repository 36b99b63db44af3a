"""Only what pyproject.toml cannot say yet: which file describes the cffi extension."""

from setuptools import setup

setup(
    cffi_modules=["ringserve/ring/build_uring.py:ffibuilder"],
    # The extension uses the stable ABI only, so one wheel serves every Python from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
