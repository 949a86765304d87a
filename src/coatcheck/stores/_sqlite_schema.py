"""The SQLite store's tables and triggers, and making them in an empty file. Leaves opening files to `_sqlite_file`.

Every change is written to the log by a trigger, so one that was typed by hand in any SQLite client is told too. The
triggers run in whatever SQLite that client has: nothing newer than 3.24 stands in them.
"""

from pathlib import Path
from typing import cast

from coatcheck.errors import UsageError
from coatcheck.stores._sqlite_link import Link

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "ensure_schema", "has_schema"]

APPLICATION_ID = 0x436F6174
"""`PRAGMA application_id` of our files: "Coat". Guards other programs' databases, our accounts' among them."""

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE session (
  key INTEGER PRIMARY KEY,  -- made from the id: see _sqlite_steps.key_of
  id TEXT NOT NULL,
  user_id TEXT,
  epoch INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  version INTEGER NOT NULL,
  expires_at REAL NOT NULL,
  last_seen_at REAL NOT NULL,
  hashes BLOB NOT NULL,  -- of the current secret and the lately replaced ones: what the tombstone will need
  record BLOB NOT NULL
);
CREATE INDEX session_of_user ON session (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX session_by_expiry ON session (expires_at);
CREATE INDEX session_by_last_seen ON session (last_seen_at);

CREATE TABLE user_epoch (user_id TEXT PRIMARY KEY NOT NULL, epoch INTEGER NOT NULL) WITHOUT ROWID;

CREATE TABLE tombstone (
  id TEXT PRIMARY KEY NOT NULL,
  ended_at REAL NOT NULL,
  reason TEXT NOT NULL,
  hashes BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX tombstone_by_age ON tombstone (ended_at);

-- AUTOINCREMENT: a number is never used twice, so "nothing newer than n" means one thing only.
CREATE TABLE change (
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL,
  id TEXT NOT NULL,
  version INTEGER NOT NULL DEFAULT 0,
  generation INTEGER NOT NULL DEFAULT 0,
  reason TEXT NOT NULL DEFAULT ''
);

-- Not for last_seen_at: being seen is no change. A version that did not rise tells that this was no store of ours.
CREATE TRIGGER session_changed
AFTER UPDATE OF key, id, user_id, epoch, generation, version, expires_at, hashes, record ON session BEGIN
  INSERT INTO change (kind, id, version, generation) SELECT 'changed', OLD.id,
    CASE WHEN told THEN NEW.version ELSE 0 END, CASE WHEN told THEN NEW.generation ELSE 0 END
    FROM (SELECT NEW.id = OLD.id AND NEW.version > OLD.version AND NEW.generation >= OLD.generation AS told);
END;

CREATE TRIGGER session_ended AFTER DELETE ON session BEGIN
  INSERT INTO tombstone (id, ended_at, reason, hashes)
    SELECT OLD.id, strftime('%s', 'now'), 'deleted by hand', OLD.hashes
    WHERE NOT EXISTS (SELECT 1 FROM tombstone WHERE id = OLD.id);
  INSERT INTO change (kind, id, reason) SELECT 'ended', id, reason FROM tombstone WHERE id = OLD.id;
END;

-- INSERT OR REPLACE, typed by hand, fires neither of the above.
CREATE TRIGGER session_replaced BEFORE INSERT ON session
WHEN EXISTS (SELECT 1 FROM session WHERE key = NEW.key) BEGIN
  INSERT INTO change (kind, id) SELECT 'changed', id FROM session WHERE key = NEW.key;
END;

CREATE TRIGGER user_epoch_changed AFTER UPDATE ON user_epoch BEGIN
  INSERT INTO change (kind, id) VALUES ('user', OLD.user_id);
END;

CREATE TRIGGER user_epoch_deleted AFTER DELETE ON user_epoch BEGIN
  INSERT INTO change (kind, id) VALUES ('user', OLD.user_id);
END;

CREATE TRIGGER user_epoch_replaced BEFORE INSERT ON user_epoch
WHEN EXISTS (SELECT 1 FROM user_epoch WHERE user_id = NEW.user_id) BEGIN
  INSERT INTO change (kind, id) VALUES ('user', NEW.user_id);
END;
"""


def ensure_schema(link: Link, path: Path) -> None:
    """Make the tables if the database is empty. Several processes may do so at once.

    Raises UsageError for a newer release's file and for another program's database.
    """
    if has_schema(link, path):
        return
    link.rows("BEGIN IMMEDIATE")
    try:
        if not has_schema(link, path):
            link.rows(_SCHEMA)
            link.rows(f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}")
        link.rows("COMMIT")
    except BaseException:
        link.rollback()
        raise


def has_schema(link: Link, path: Path) -> bool:
    """Tell whether the tables are there; False for an empty database. Raises UsageError as `ensure_schema` does."""
    ours = link.pragma("application_id") == APPLICATION_ID
    version = cast(int, link.pragma("user_version"))
    if ours and version == SCHEMA_VERSION:
        return True
    if ours and version > SCHEMA_VERSION:
        raise UsageError(
            f"{path} was made by a newer release of Coatcheck (schema {version}; this one knows {SCHEMA_VERSION}): "
            "upgrade this installation, or give it a file of its own"
        )
    if ours and version:
        raise UsageError(
            f"{path} was made before release 0.1.0 (schema {version}), whose sessions no release reads: "
            "move it away and start anew, and everybody logs in once more"
        )
    if ours or version or link.rows("SELECT count(*) FROM sqlite_master") != [(0,)]:
        raise UsageError(f"{path} is another program's database: give the session store a file of its own")
    return False
