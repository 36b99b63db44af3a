"""Only what pyproject.toml cannot say yet: which file describes the cffi extension."""

from setuptools import setup

setup(cffi_modules=["ringserve/ring/build_uring.py:ffibuilder"])
