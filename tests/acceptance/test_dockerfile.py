"""The Dockerfile is read as an engine reads it, and its steps end in a healthy node on a bare Debian."""

import json
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from configs.deployment import dockerfile, host_settings
from configs.deployment.dockerfile import (
    DockerfileInvalid,
    Ignore,
    copies,
    duration_s,
    exec_form,
    expand,
    parse,
)
from configs.deployment.host_settings import Source, apt_settings, pip_settings, sources, sources_list
from configs.deployment.run_dockerfile import missing_on_this_machine

ROOT = Path(__file__).parents[2]
FROM = "FROM debian:bookworm-slim\n"


def names(*texts):
    return [PurePosixPath(text) for text in texts]


def one(text):
    return parse(FROM + text)[1]


def test_continuations_comments_and_flags_are_read():
    steps = parse(
        "# a comment\n"
        + FROM
        + "\nRUN a \\\n  # inside\n  && b\nhealthcheck --timeout=5s --retries=2 CMD x\n"
    )
    assert [(s.name, s.value, s.line) for s in steps] == [
        ("FROM", "debian:bookworm-slim", 2),
        ("RUN", "a && b", 4),
        ("HEALTHCHECK", "CMD x", 7),
    ]
    assert steps[2].flags == {"timeout": "5s", "retries": "2"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("ADD a b", "ADD"),
        ('SHELL ["bash"]', "SHELL"),
        ("ONBUILD RUN x", "ONBUILD"),
        ("RUN --mount=type=cache x", "--mount"),
        ("COPY --from=other a b", "--from"),
        ("RUN <<EOF", "RUN"),
        ("USER", "USER"),
    ],
)
def test_what_is_not_known_is_refused_by_name(text, named):
    with pytest.raises(DockerfileInvalid, match=named):
        parse(FROM + text)


@pytest.mark.parametrize("text", ["RUN x", FROM + FROM, ""])
def test_it_begins_with_its_one_base_image(text):
    with pytest.raises(DockerfileInvalid, match="FROM"):
        parse(text)


@pytest.mark.parametrize(
    "base", ["debian:bookworm", "alpine:3", "debian:bookworm-slim AS build", "evil/debian:x-slim"]
)
def test_only_debians_slim_images_can_be_made(base):
    with pytest.raises(DockerfileInvalid):
        dockerfile.suite(parse(f"FROM {base}")[0])


def test_variables_are_replaced():
    values = {"A": "1", "EMPTY": ""}
    assert expand("$A ${A}x ${EMPTY:-d} ${A:-d} ${A:+o} ${B:+o} $B \\$A", values) == "1 1x d 1 o   $A"
    step = one('ENV PATH=/opt/bin:$PATH LONG="two words"')
    assert dockerfile.assignments(step, {"PATH": "/bin"}) == {"PATH": "/opt/bin:/bin", "LONG": "two words"}
    with pytest.raises(DockerfileInvalid, match="NAME=VALUE"):
        dockerfile.assignments(one("ENV KEY value"), {})


def test_commands_have_two_forms():
    assert one('CMD ["caxton", "start"]').command == ["caxton", "start"]
    assert one("CMD caxton start").command == ["/bin/sh", "-c", "caxton start"]
    assert exec_form('["a", 1]') == []
    assert dockerfile.health_command(one('HEALTHCHECK CMD ["a", "b"]')) == ["a", "b"]
    assert dockerfile.health_command(one("HEALTHCHECK CMD a b")) == ["/bin/sh", "-c", "a b"]
    assert dockerfile.health_command(one("HEALTHCHECK NONE")) == []
    with pytest.raises(DockerfileInvalid, match="neither"):
        dockerfile.health_command(one("HEALTHCHECK a"))


def test_durations_are_read():
    assert duration_s("1m30s") == 90
    assert duration_s("500ms") == 0.5
    with pytest.raises(DockerfileInvalid):
        duration_s("5 apples")


def test_copy_keeps_what_is_below_a_directory_and_names_files():
    context = names("a.txt", "node/x.py", "node/deep/y.py")
    assert copies(one("COPY node /app"), context) == [
        (PurePosixPath("node/x.py"), "/app/x.py"),
        (PurePosixPath("node/deep/y.py"), "/app/deep/y.py"),
    ]
    assert copies(one("COPY a.txt b.txt"), context) == [(PurePosixPath("a.txt"), "b.txt")]
    assert copies(one("COPY a.txt ./"), context) == [(PurePosixPath("a.txt"), "a.txt")]
    assert len(copies(one('COPY [".", "/all/"]'), context)) == 3


@pytest.mark.parametrize("text", ["COPY ../a b", "COPY *.txt b", "COPY missing b", "COPY b"])
def test_copy_refuses_what_is_not_in_the_context(text):
    with pytest.raises(DockerfileInvalid, match="COPY"):
        copies(one(text), names("a.txt"))


def test_ignored_files_stay_out_and_the_last_fitting_line_decides():
    ignore = Ignore("# comment\n*\n!node\n!README.md\n**/__pycache__\n*/secret?.key\n")
    outside = [
        ".git/config",
        "tests/t.py",
        "node/__pycache__/x.pyc",
        "node/secret1.key",
        "node/a/__pycache__/y",
    ]
    inside = ["README.md", "node/x.py", "node/a/b.py", "node/secret12.key", "node/a/secret1.key"]
    assert [p for p in outside if not ignore.excludes(PurePosixPath(p))] == []
    assert [p for p in inside if ignore.excludes(PurePosixPath(p))] == []
    assert Ignore("a/**/z").excludes(PurePosixPath("a/b/c/z"))
    assert not Ignore("[a-c]x").excludes(PurePosixPath("dx"))


def test_the_context_yields_files_and_links_only(tmp_path):
    (tmp_path / "node").mkdir()
    (tmp_path / "node" / "x.py").touch()
    (tmp_path / "link").symlink_to("node")
    (tmp_path / "key.pem").touch()
    assert list(Ignore("*.pem").files(tmp_path)) == names("link", "node/x.py")


def test_no_key_data_or_environment_gets_into_our_image():
    ignore = Ignore((ROOT / ".dockerignore").read_text())
    for kept_out in (".venv/bin/python", ".git/config", "cluster/ca.key", "tests/conftest.py", "admin.token"):
        assert ignore.excludes(PurePosixPath(kept_out))
    for wanted in ("node/cli/main.py", "swim/protocol.py", "configs/demo/sales.csv", "constraints.txt"):
        assert not ignore.excludes(PurePosixPath(wanted))


def test_our_image_runs_as_nobody_special_and_names_its_ports():
    steps = parse((ROOT / "Dockerfile").read_text())
    by_name = {step.name: step for step in steps}
    assert [step.value for step in steps if step.name == "USER"] == ["caxton"]
    assert by_name["EXPOSE"].value.split() == ["8080", "7946/tcp", "7946/udp", "7947"]
    assert by_name["ENTRYPOINT"].command + by_name["CMD"].command == ["caxton", "start"]
    assert "index-url" not in (ROOT / "Dockerfile").read_text()


def test_package_sources_are_those_of_the_machine(tmp_path):
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "# deb http://no.example/ bookworm main\n"
        "deb [arch=amd64] http://m.example/sec/ bookworm-security main\n"
        "deb-src http://src.example bookworm main\ndeb http://other.example trixie main\n"
    )
    (tmp_path / "sources.list.d" / "debian.sources").write_text(
        "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm\n bookworm-updates\nComponents: main\n\n"
        "Types: deb\nEnabled: no\nURIs: http://off.example\nSuites: bookworm\n"
    )
    found = sources("bookworm", tmp_path)
    assert found == [
        Source("http://m.example/debian", "bookworm"),
        Source("http://m.example/sec", "bookworm-security"),
        Source("http://m.example/debian", "bookworm-updates"),
    ]
    assert sources_list(found[:1]) == "deb http://m.example/debian bookworm main\n"
    assert sources("sid", tmp_path) == [Source(host_settings.DEFAULT_MIRROR, "sid")]


def test_settings_of_the_machine_are_carried_without_its_places(tmp_path):
    first, second = tmp_path / "first.conf", tmp_path / "second.conf"
    first.write_text("[global]\nindex-url = http://one.example/%(x)s\ntarget = /elsewhere\n")
    second.write_text("[global]\nindex-url = http://two.example/simple\n[install]\nprefix = /usr/local\n")
    merged = pip_settings([first, second])
    assert "two.example" in merged
    assert "elsewhere" not in merged
    assert "prefix" not in merged
    proxy = 'Acquire::http::Proxy "http://p.example:3128";'
    dump = proxy + '\nDir::Cache "var/cache";\nDPkg::Post-Invoke:: "rm x";\n'
    assert apt_settings(dump).splitlines()[0] == proxy
    assert "Post-Invoke" not in apt_settings(dump)


@pytest.mark.timeout(600)
def test_the_steps_end_in_a_healthy_node_on_a_bare_debian(tmp_path):
    missing = missing_on_this_machine()
    if missing:
        pytest.skip(f"running the Dockerfile's steps {missing}")
    done = subprocess.run(
        [sys.executable, "-m", "configs.deployment.run_dockerfile", "--work", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    healthy = next(line for line in done.stdout.splitlines() if line.startswith("healthy after"))
    answer = json.loads(healthy[healthy.index("{") :])
    assert answer["status"] == "healthy"
    assert "stopped by SIGTERM, exit status 0" in done.stdout
    assert not list(tmp_path.iterdir()), "the root was not removed"
