"""``caxton memory migrate``: the memory of a node that is stopped, into another backend."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.errors import UsageFailed
from node.cli.output import print_json
from node.cli.progress import bar
from node.errors import ConfigInvalid, MemoryBackendFailed, StorageFailed
from node.wording import said_of

if TYPE_CHECKING:
    from node.config.model import NodeConfig
    from node.memory.backends.factory import Kept
    from node.memory.store import MemoryStore


@click.command(
    "migrate",
    epilog="For example: caxton memory migrate --to neo4j --config node.yaml",
)
@click.option(
    "--to", "name", required=True, metavar="BACKEND", help="qdrant, neo4j, or one of another package."
)
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The node's configuration, which says where the backend is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def migrate(name: str, path: Path | None, as_json: bool) -> int:
    """Copy the memory's file into another backend, and compare both at the end.

    The node must be stopped. What was cut off goes on where it was; the file stays as it is. Set
    memory.backend afterwards.
    """
    from pydantic import ValidationError  # noqa: PLC0415 - not for --help

    from node.config import load_config  # noqa: PLC0415
    from node.config.memory import MemoryConfig  # noqa: PLC0415

    if name == "embedded":
        raise UsageFailed(
            "a memory is migrated from the file of the node, not into it",
            fix="Use caxton memory export on the node that has it, and caxton memory import.",
        )
    config = load_config(path, environ=os.environ)
    try:
        told = config.memory.model_dump(exclude_unset=True) | {"backend": name}
        memory = MemoryConfig.model_validate(told)
    except ValidationError as error:
        why = "; ".join(said_of(each) for each in error.errors())
        raise ConfigInvalid(
            f"the configuration does not say enough for the backend {name!r}",
            why=why,
            fix="Complete the section memory.",
        ) from error
    found = _migrated(config.model_copy(update={"memory": memory}))
    if as_json:
        print_json(found)
    else:
        counts = "{entities} entities, {observations} observations, {relations} relations".format(**found)
        click.echo(f"{name} has all of it: {counts}")
        click.echo(f"Set memory.backend: {name}, and start the node.")
    return 0


def _migrated(config: NodeConfig) -> dict[str, Any]:
    """Copy, compare, and say what there is.

    Raises:
        DataDirectoryInUse: the node is running.
        StorageFailed: there is no memory to copy.
        MemoryBackendFailed: the backend does not answer, or has something else at the end.
    """
    import trio  # noqa: PLC0415

    from node.environment import system_environment  # noqa: PLC0415
    from node.memory.absent import AbsentEmbedder  # noqa: PLC0415
    from node.memory.backends.factory import how_kept  # noqa: PLC0415
    from node.memory.room import FILE  # noqa: PLC0415
    from node.memory.schema import MEMORY  # noqa: PLC0415
    from node.memory.store import MemoryStore  # noqa: PLC0415
    from node.storage.storage import Storage  # noqa: PLC0415

    file = config.memory.embedded.database_path or config.storage.data_dir / FILE
    if not file.is_file():
        raise StorageFailed(
            f"there is no memory {file}",
            why="the file does not exist",
            fix="Name the configuration of a node that has remembered something.",
        )
    environment = system_environment()
    kept = how_kept(config.memory, environment, config.cluster.node_name)

    async def run() -> dict[str, Any]:
        storage = Storage.open(file, durability="full", environment=environment, design=MEMORY)
        try:
            store = MemoryStore(storage, AbsentEmbedder(), environment, node=config.cluster.node_name)
            counted = [sum(each) for each in (await store.counts(_operator())).values()]
            with bar("Copying", float(sum(counted))) as show:
                return await _copied(config, kept, store, file, show)
        finally:
            storage.close()

    return trio.run(run)


async def _copied(
    config: NodeConfig, kept: Kept, store: MemoryStore, file: Path, show: Callable[[float], None]
) -> dict[str, Any]:
    from node.environment import system_environment  # noqa: PLC0415
    from node.memory.absent import AbsentEmbedder  # noqa: PLC0415
    from node.memory.backends.protocol import BackendContext  # noqa: PLC0415
    from node.memory.migrating import Migration, told_by  # noqa: PLC0415
    from node.memory.records import Limits  # noqa: PLC0415

    name, embedded = config.memory.backend, config.memory.embedded
    if kept.vectors is not None:
        vectors = kept.vectors(store.storage)
        try:
            await vectors.attach()
            await vectors.tell_all()
            show(0.0)
            while await vectors.push():
                show(float(vectors.statistics()["pushed"]))
            refused = vectors.statistics()["refused"]
            if refused or not await vectors.compare():
                raise MemoryBackendFailed(
                    "Qdrant has not all vectors of the memory's file",
                    why=f"{refused} have another size than memory.qdrant.vector_size"
                    if refused
                    else "the numbers of vectors differ",
                    fix="Correct memory.qdrant.vector_size, or migrate again.",
                )
        finally:
            await vectors.aclose()
        return {"backend": name, **asdict(await told_by(store))}
    if kept.outside is None:
        raise UsageFailed(f"{name!r} is no backend to migrate to")
    context = BackendContext(
        system_environment(),
        config.cluster.node_name,
        AbsentEmbedder(),
        Limits(embedded.max_entities, embedded.max_entities_per_owner),
        embedded.semantic_threshold,
    )
    target = await kept.outside(context)
    try:
        migration = Migration(store, target, name=name, path=file, on_progress=lambda done: show(float(done)))
        return {"backend": name, **asdict(await migration.run())}
    finally:
        await target.aclose()


def _operator() -> Any:
    from node.memory.scopes import OPERATOR  # noqa: PLC0415

    return OPERATOR
