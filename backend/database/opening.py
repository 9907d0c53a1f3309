"""Opens the database that the settings describe, with what an earlier release left in the data folder."""

from backend.database.credentials import Credentials
from backend.database.earlier import carry_over
from backend.database.engine import Database
from backend.database.vault import Vault
from backend.settings import Settings

FILE = "premask.sqlite"  # in the data folder


def open_database(settings: Settings) -> tuple[Database, Credentials]:
    """The database, and the credentials in it.

    Raises:
        DatabaseError: it cannot be used, nor the key to it, or what an earlier release left cannot be carried over.
    """
    if settings.database_url is None:
        database = Database.sqlite(settings.data_dir / FILE)
    else:
        database = Database.postgresql(settings.database_url.get_secret_value())
    vault = Vault(settings.data_dir, settings.secret_key)
    vault.check()
    credentials = Credentials(database, vault, settings.label_studio_url, settings.label_studio_api_key)
    carry_over(database, credentials, settings.data_dir)
    return database, credentials
