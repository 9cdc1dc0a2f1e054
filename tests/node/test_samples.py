"""What comes with Caxton is found wherever Caxton is installed."""

import importlib.util
import shutil
from pathlib import Path

import pytest

import node.samples
from node.agents.definition import parse_definition
from node.errors import ValidationFailed
from node.samples import sample, sample_agents

CONFIGS = Path(__file__).parents[2] / "configs"


def installed_copy(directory, *, configs):
    """``node.samples`` as a wheel puts it into site-packages, with or without its data."""
    package = directory / "site-packages" / "node"
    package.mkdir(parents=True)
    shutil.copy(node.samples.__file__, package / "samples.py")
    if configs:
        shutil.copytree(CONFIGS, package / "configs")
    spec = importlib.util.spec_from_file_location("installed_samples", package / "samples.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module, package


def test_the_demo_finds_its_data_in_the_checkout():
    assert sample("demo/sales.csv") == CONFIGS / "demo" / "sales.csv"
    assert len(sample("demo/sales.csv").read_text().splitlines()) > 1_000


def test_an_installed_package_uses_its_own_copy(tmp_path):
    module, package = installed_copy(tmp_path, configs=True)
    assert module.sample("demo/sales.csv") == package / "configs" / "demo" / "sales.csv"
    assert {path.parent for path in module.sample_agents()} == {package / "configs" / "agents"}


def test_an_installation_without_samples_says_so(tmp_path):
    module, _ = installed_copy(tmp_path, configs=False)
    assert module.sample_agents() == []
    with pytest.raises(ValidationFailed) as caught:
        module.sample("demo/sales.csv")
    assert "demo/sales.csv" in caught.value.what


@pytest.mark.parametrize("name", ["../pyproject.toml", "/etc/passwd", "agents", "agents/none.md", ""])
def test_only_files_below_configs_are_samples(name):
    with pytest.raises(ValidationFailed):
        sample(name)


def test_every_sample_agent_is_found_and_valid():
    assert sample_agents() == sorted((CONFIGS / "agents").glob("*.md"))
    for path in sample_agents():
        assert parse_definition(path.read_bytes()).capabilities
