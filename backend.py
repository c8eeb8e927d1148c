"""setuptools' build backend, telling setup.py when it makes an editable install.

Then the packages are the checkout's own, whatever they weigh; a wheel of `atelier` holds the client alone.
"""

import os

from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401 (what a build frontend calls)
    build_sdist,
    build_wheel,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_wheel,
)


def prepare_metadata_for_build_editable(*arguments: object, **options: object) -> str:
    os.environ["ATELIER_EDITABLE"] = "1"
    return build_meta.prepare_metadata_for_build_editable(*arguments, **options)


def build_editable(*arguments: object, **options: object) -> str:
    os.environ["ATELIER_EDITABLE"] = "1"
    return build_meta.build_editable(*arguments, **options)
