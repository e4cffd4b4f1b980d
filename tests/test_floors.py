"""The oldest versions that pyproject.toml admits have no hole that is known for what they do here.

The advisories are those published by November 2026: found in the PyPA, GitHub and CVE databases. A new one is a new
row here, and a higher floor there.
"""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import REPOSITORY

ADVISORIES = [
    # package, first safe version, advisory, what it is about
    ("pillow", "12.1.1", "CVE-2026-25990", "out-of-bounds write by tile offsets of a PSD"),
    ("pillow", "12.2", "CVE-2026-40192", "FITS file that unpacks without a bound"),
    ("pillow", "12.3", "PYSEC-2026-2253", "with 2254 to 2257 and 3451 to 3453: memory safety of decoders"),
    ("pillow", "13.0", "CVE-2026-112403", "heap overflow in the JPEG decoder"),
    ("pillow", "13.0", "CVE-2026-112395", "read past the tile buffer of a TIFF"),
    ("pillow", "13.0", "CVE-2026-128067", "heap overflow in saving a TIFF"),
    ("opencv-python-headless", "4.12", "CVE-2025-53644", "write through an uninitialised pointer, by a JPEG"),
    ("opencv-python-headless", "4.14", "CVE-2026-22801", "its libpng reads past a buffer: 1.6.58 is safe"),
    ("torch", "2.6", "CVE-2025-32434", "torch.load(weights_only=True) runs code"),
    ("torch", "2.10", "CVE-2026-24747", "torch.load(weights_only=True) corrupts memory"),
    ("torch", "2.11", "CVE-2026-4538", "deserialisation of .pt2 files"),
    ("torch", "2.13", "CVE-2025-3000", "memory corruption in torch.jit.script"),
    ("numpy", "1.22.2", "CVE-2021-41495", "null pointer in numpy.sort"),
    ("scipy", "1.10", "CVE-2023-25399", "reference leak in building arrays"),
    ("scikit-learn", "1.5", "CVE-2024-5206", "training data kept in a model"),
    ("pyyaml", "5.4", "CVE-2020-14343", "full_load runs code"),
    ("hydra-core", "1.3.4", "CVE-2026-68508", "instantiate calls anything"),
    ("hydra-core", "1.3.6", "CVE-2026-106441", "logging configuration calls anything"),
    ("hydra-core", "1.3.7", "CVE-2026-106439", "what instantiate refuses can be switched off"),
    ("mlflow", "3.10", "CVE-2026-2614", "the server reads any file"),
    ("mlflow", "3.11.1", "CVE-2026-33865", "script in the page by a YAML artifact"),
    ("mlflow", "3.16", "CVE-2026-71211", "the server's gateway asks any address"),
    ("mlflow", "3.17.2", "CVE-2026-53995", "the server writes outside its folder"),
    ("filelock", "3.20.1", "CVE-2025-68146", "a symbolic link in place of the lock truncates a file"),
    ("filelock", "3.20.3", "CVE-2026-22701", "the same in SoftFileLock"),
    ("filelock", "4.2.1", "CVE-2026-112940", "the same in ReadWriteLock, and its kin"),
    ("psutil", "5.6.6", "CVE-2019-18874", "double free"),
    ("onnx", "1.21", "CVE-2026-27489", "reads outside the model's folder"),
    ("onnx", "1.21", "CVE-2026-49114", "writes through a symbolic link"),
]


def requirements() -> dict[str, Requirement]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    return {found.name: found for found in map(Requirement, lines)}


def floor(requirement: Requirement) -> Version:
    return max(Version(one.version) for one in requirement.specifier if one.operator in (">=", "==", "~="))


@pytest.mark.parametrize(("package", "safe", "advisory", "about"), ADVISORIES)
def test_the_floor_is_above_a_known_hole(package: str, safe: str, advisory: str, about: str):
    found = floor(requirements()[package])
    assert found >= Version(safe), f"{package}>={found} admits {advisory} ({about}): raise it to {safe}"


def test_every_requirement_has_a_floor_that_the_lock_is_above():
    locked = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", (REPOSITORY / "requirements.lock").read_text(), re.MULTILINE))
    for name, requirement in requirements().items():
        if name == "segkit":
            continue
        floor(requirement)
        version = locked[re.sub(r"[-_.]+", "-", name).lower()]
        assert requirement.specifier.contains(version), f"requirements.lock has {name} {version}, not {requirement}"
