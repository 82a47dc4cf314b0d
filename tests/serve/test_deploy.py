"""The container files, as far as that goes without a container engine: what they name is there, and fits together."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import typer.main
import yaml

from vledit.cli import serve

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def serve_options() -> set[str]:
    app = typer.Typer()
    app.callback()(lambda: None)
    serve.register(app)
    command: Any = typer.main.get_command(app)
    return {option for parameter in command.commands["serve"].params for option in parameter.opts}


def test_the_dockerfile_copies_what_is_there_and_all_that_the_build_needs():
    assert instructions()[0][0] == "FROM"
    copied = [source for line in of("COPY") for source in shlex.split(line)[:-1]]
    for source in copied:
        assert (ROOT / source).exists(), source
    about = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", "src", about["project"]["readme"], *about["project"].get("license-files", [])}
    assert needed <= set(copied)
    extras = {name for line in of("RUN") for name in re.findall(r"\.\[([\w-]+)\]", line)}
    assert extras
    assert extras <= set(about["project"]["optional-dependencies"])
    assert "constraints.txt" in copied


def test_the_dockerfile_starts_the_server_as_nobody_special_with_options_that_there_are():
    names = [instruction for instruction, _ in instructions()]
    assert names.index("USER") < names.index("ENTRYPOINT")
    words = [
        *json.loads(of("ENTRYPOINT")[0]),
        *json.loads(of("CMD")[0]),
    ]  # JSON: without a shell, which would eat SIGTERM
    assert words[:2] == ["vledit", "serve"]
    assert {word for word in words if word.startswith("--")} <= serve_options()
    check = of("HEALTHCHECK")[0].split("CMD ", 1)[1]
    assert "/readyz" in json.loads(check)[-1]
    compile(json.loads(check)[-1], "healthcheck", "exec")


def test_the_compose_file_names_what_is_there():
    parts: dict[str, Any] = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
    services = parts["services"]
    replicas = [service for service in services.values() if "build" in service]
    assert len(replicas) == 2
    for service in replicas:
        build = service["build"]
        assert (ROOT / "deploy" / build["context"] / build["dockerfile"]).resolve() == DOCKERFILE
        assert service["environment"]["VLEDIT_STORE"].startswith("postgresql://")
        assert "@database/" in service["environment"]["VLEDIT_STORE"]
        seconds = int(service["stop_grace_period"].removesuffix("s"))
        assert seconds > 30  # longer than the server's own drain
    volumes = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    assert volumes == set(parts["volumes"])
    for service in services.values():
        assert set(service.get("depends_on", [])) <= set(services)
        assert {config["source"] for config in service.get("configs", [])} <= set(parts["configs"])
    proxy = parts["configs"]["proxy"]["content"].replace("$$", "$")
    assert set(re.findall(r"server ([\w-]+):8000", proxy)) <= set(services)
    assert proxy.count("{") == proxy.count("}")
    assert services["proxy"]["ports"] == ["127.0.0.1:8000:80"]  # nobody else reaches it unless that is changed
