# SPDX-License-Identifier: GPL-3.0-or-later
import re
from pathlib import Path

from setuptools import find_packages, setup

source = Path(__file__).with_name("ptclean").joinpath("__init__.py").read_text(encoding="utf-8")
version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)

# What the project is tested with. Wheels of casatools exist for Python 3.11 to 3.13 alone.
casa = [
    "casatasks==6.7.0.31; python_version < '3.12'",
    "casatasks==6.7.6.14; python_version >= '3.12'",
]
shell = [
    "casashell==6.7.0.31; python_version < '3.12'",
    "casashell==6.7.6.14; python_version >= '3.12'",
    "pexpect",
]
demo = [*casa, "casadata", "matplotlib", "scipy"]
docs = [*casa, "casadata", "furo", "myst-parser", "numpydoc", "sphinx"]
test = [
    *demo,
    *docs,
    *shell,
    "dask-jobqueue",
    "hypothesis",
    "ipykernel",
    "mypy",
    "pytest",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
]

setup(
    name="ptclean",
    version=version,
    description="CASA's tclean on many Dask workers, with tclean's own images",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="GPL-3.0-or-later",
    packages=[*find_packages(include=["ptclean", "ptclean.*"]), "ptclean.xml"],
    package_dir={"ptclean.xml": "xml"},
    package_data={"ptclean": ["*.yaml"], "ptclean.xml": ["*.xml"]},
    python_requires=">=3.11",
    # casatasks imports six without declaring it.
    install_requires=[
        "casatasks",
        "casatools",
        "cryptography",
        "dask",
        "distributed",
        "numpy",
        "psutil",
        "pyyaml",
        "six",
        "tqdm",
        "xmltodict",
    ],
    extras_require={"demo": demo, "docs": docs, "test": test},
)
