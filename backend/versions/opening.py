"""Opens the registry that the settings describe, once its database and its store are known to belong together.

Both hold the same identity, made when they first met. A machine with another database or another store than the rest
is refused at its start, so no two machines ever serve different versions and say all is well.
"""

import logging
import secrets
from pathlib import Path

from filelock import FileLock
from sqlalchemy import Connection, insert, select, update

from backend.database.engine import Database
from backend.database.tables import STORES, VERSIONS
from backend.errors import StoreError
from backend.settings import Settings
from backend.versions.earlier import STATE, found_in, take_over
from backend.versions.registry import Registry
from backend.versions.store import GIGABYTE, IDENTITY, Store

logger = logging.getLogger(__name__)

FOLDER, CACHE = "models", "models-cache"  # in the data folder
LOCK = "models.lock"
TAKEN_OVER = ".carried-over"  # ending of an earlier release's served.json once the database has everything


def store_of(settings: Settings) -> Store:
    """The store that the settings describe; raises StoreError if nothing knows its address."""
    cache = settings.data_dir / CACHE
    url = settings.models_url or settings.data_dir / FOLDER
    return Store(url, cache, int(settings.models_cache_gb * GIGABYTE), settings.models_endpoint)


def open_registry(settings: Settings, database: Database) -> Registry:
    """The registry, with the versions that an earlier release left.

    Raises:
        StoreError: the store cannot be used, or is not this database's.
        DatabaseError: the database cannot be used.
    """
    store = store_of(settings)
    if (folder := settings.data_dir / FOLDER) != store.folder and _has_versions(folder):
        raise StoreError(
            f"{folder} has versions of an earlier release, and PREMASK_MODELS_URL names {store.name}",
            "start once without PREMASK_MODELS_URL, stop, copy that folder whole to the new place, and start again",
        )
    bind(database, store, FileLock(settings.data_dir / LOCK))
    return Registry(database, store, settings.keep_versions)


def bind(database: Database, store: Store, lock: FileLock) -> None:
    """Give a database and a store that are both new the same identity, and refuse those of others.

    Args:
        database: of this process.
        store: the same.
        lock: keeps other processes of this machine out meanwhile; of other machines, the database does.

    Raises:
        StoreError: they do not belong together, or the store cannot be used.
    """
    if identity_of(database) == (store.identity(), True):
        return
    with lock, database.alone():
        identity, bound = identity_of(database)
        if identity is None:
            identity = _begin(database, store)
        if not bound and store.identity() is None:
            store.identify(identity)
        if (found := store.identity()) != identity:
            raise _apart(database, store, identity, found)
        if not bound:
            _put_state_away(store)
            database.change(lambda connection: connection.execute(update(STORES).values(bound=True)))


def identity_of(database: Database) -> tuple[str | None, bool]:
    """The identity of the store that a database's versions are in, and whether that store is known to hold it."""
    query = select(STORES.c.identity, STORES.c.bound)
    row = database.read(lambda connection: connection.execute(query).one_or_none())
    return (None, False) if row is None else (row.identity, row.bound)


def _begin(database: Database, store: Store) -> str:
    """Note a new identity in the database, with the versions that are in the store already."""
    if store.identity() is not None:
        raise StoreError(
            f"the store of versions {store.name} belongs to another database than {database.name}, which has none yet",
            f"name that database, or another store; if it is lost, remove {IDENTITY} from the store: its versions are "
            "taken over then, and `premask versions promote` says which is served",
        )
    identity, projects = secrets.token_hex(8), found_in(store)

    def work(connection: Connection) -> None:
        take_over(connection, projects)
        connection.execute(insert(STORES).values(number=1, identity=identity, bound=False))

    database.change(work)
    if count := sum(len(project.versions) for project in projects):
        logger.info("%d versions were taken over from %s", count, store.name)
    return identity


def _apart(database: Database, store: Store, identity: str, found: str | None) -> StoreError:
    count = database.read(lambda connection: len(connection.execute(select(VERSIONS.c.name)).all()))
    what = "has no identity" if found is None else f"has the identity {found[:40]}"
    return StoreError(
        f"the store of versions {store.name} {what}, and the {count} versions of the database {database.name} are in "
        f"one with the identity {identity}",
        "name the same PREMASK_MODELS_URL and the same PREMASK_DATABASE_URL on every machine; a store that was moved "
        f"is copied whole, with {IDENTITY}; to go on with this store, write {identity} into its {IDENTITY}",
    )


def _has_versions(folder: Path) -> bool:
    """Whether an earlier release left versions that no database has taken over."""
    return not (folder / IDENTITY).exists() and any(folder.glob("project-*/p*-r*/card.json"))


def _put_state_away(store: Store) -> None:
    """What an earlier release says is served is true no more."""
    for project in store.projects():
        for place in store.places(project):
            if place.endswith(f"/{STATE}"):
                store.rename(place, place + TAKEN_OVER)
