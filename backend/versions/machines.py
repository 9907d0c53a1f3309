"""Whether the machines that use one database use one store: each writes a nonce into both and reads the others'.

The store's identity tells most that is wrong at a start. A copy of a store has the same identity, though, and a version
that one machine publishes is then missing on the others.
"""

import secrets
import time
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from backend.database.engine import Database, insert_into
from backend.database.tables import MACHINES
from backend.system.processes import host_name
from backend.versions.store import Store

NOTES = "premask-machines"  # folder in the store
YOUNG_SECONDS = 600.0
SEEN_SECONDS = 7 * 86_400.0  # after which a machine that has not started again is forgotten


@dataclass(frozen=True)
class Meeting:
    """Other machines, by name.

    Attributes:
        together: those with the same database and the same store.
        other_store: those that this database knows and whose nonce is not in this store.
        other_database: those whose nonce is in this store and that this database does not know.
    """

    together: tuple[str, ...]
    other_store: tuple[str, ...]
    other_database: tuple[str, ...]


def meet(database: Database, store: Store, name: str | None = None) -> None:
    """Write a new nonce of this machine into the store, then into the database; forget machines that are gone.

    One that both hold and that is young stays: a machine has many processes.

    Args:
        database: of this machine.
        store: the same.
        name: of this machine; None for its host name.

    Raises:
        StoreError: the store cannot be written to.
        DatabaseError: the database cannot be used.
    """
    name, nonce, now = name or host_name(), secrets.token_hex(8), time.time()
    mine = select(MACHINES).where(MACHINES.c.name == name)
    before = database.read(lambda connection: connection.execute(mine).one_or_none())
    if before is not None and now - before.seen < YOUNG_SECONDS and store.noted(f"{NOTES}/{name}") == before.nonce:
        return
    store.note(f"{NOTES}/{name}", nonce)
    row = {"nonce": nonce, "seen": now}
    old = select(MACHINES.c.name).where(MACHINES.c.seen < now - SEEN_SECONDS)
    gone = database.read(lambda connection: connection.execute(old).scalars().all())
    for machine in gone:
        store.unnote(f"{NOTES}/{machine}")

    def write(connection: Connection) -> None:
        new = insert_into(connection, MACHINES).values(name=name, **row)
        connection.execute(new.on_conflict_do_update(index_elements=[MACHINES.c.name], set_=row))
        connection.execute(delete(MACHINES).where(MACHINES.c.name.in_(gone)))

    database.change(write)


def met(database: Database, store: Store, name: str | None = None) -> Meeting:
    """The other machines as this one sees them; arguments and errors as for `meet`."""
    name = name or host_name()
    query = select(MACHINES.c.name, MACHINES.c.nonce)
    known = {row.name: row.nonce for row in database.read(lambda connection: connection.execute(query).all())}
    there = {note.rpartition("/")[2]: store.noted(note) for note in store.notes(NOTES)}
    others = sorted((known.keys() | there.keys()) - {name})
    return Meeting(
        tuple(one for one in others if one in known and known[one] == there.get(one)),
        tuple(one for one in others if one in known and known[one] != there.get(one)),
        tuple(one for one in others if one not in known),
    )
