-- Times are nanoseconds since 1970 in UTC; 0 means none. Durations are nanoseconds.

-- +goose Up

-- Short numbers for names, so that a row of the ledger is small. Rows are never removed.
CREATE TABLE routes (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE sources (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE partitions (
    id        INTEGER PRIMARY KEY,
    topic     TEXT    NOT NULL,
    partition INTEGER NOT NULL,
    UNIQUE (topic, partition)
) STRICT;

-- One row for each delivery that has been decided or parked. Rows arrive in the order of the log, at the end of
-- their route's and partition's range: no index is touched at random, so the cost of a row does not grow with the table.
-- state: 1 parked, 2 delivered, 3 dead, 4 skipped.
CREATE TABLE deliveries (
    route_id     INTEGER NOT NULL,
    partition_id INTEGER NOT NULL,
    log_offset   INTEGER NOT NULL,
    state        INTEGER NOT NULL,
    decided_at   INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    code         INTEGER NOT NULL,
    duration     INTEGER NOT NULL,
    event_id     TEXT    NOT NULL,
    target_id    TEXT    NOT NULL,
    reason       TEXT    NOT NULL DEFAULT '',
    error        TEXT    NOT NULL DEFAULT '',
    PRIMARY KEY (route_id, partition_id, log_offset)
) STRICT, WITHOUT ROWID;

-- A parked delivery with its whole event. number is the order in which they were parked, and never used again.
-- head: 1 for the eldest of its key and for every delivery without a key, else 0.
-- due_at: next_at, or lease_until while it is leased, so that the index finds what is due and nothing else.
CREATE TABLE parked (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    route_id     INTEGER NOT NULL,
    source_id    INTEGER NOT NULL,
    key          TEXT    NOT NULL,
    partition_id INTEGER NOT NULL,
    log_offset   INTEGER NOT NULL,
    head         INTEGER NOT NULL,
    next_at      INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    lease_until  INTEGER NOT NULL,
    parked_at    INTEGER NOT NULL,
    first_at     INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    parks        INTEGER NOT NULL,
    history      TEXT    NOT NULL,
    attributes   TEXT    NOT NULL,
    crc          INTEGER NOT NULL,
    body         BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX parked_position ON parked (route_id, partition_id, log_offset);
CREATE INDEX parked_due ON parked (route_id, due_at) WHERE head = 1;
CREATE INDEX parked_key ON parked (route_id, source_id, key) WHERE key <> '';
CREATE INDEX parked_age ON parked (route_id);
CREATE INDEX parked_leased ON parked (lease_until) WHERE lease_until > 0;

-- A dead letter with its whole event.
CREATE TABLE dead (
    number       INTEGER PRIMARY KEY AUTOINCREMENT,
    route_id     INTEGER NOT NULL,
    partition_id INTEGER NOT NULL,
    log_offset   INTEGER NOT NULL,
    decided_at   INTEGER NOT NULL,
    first_at     INTEGER NOT NULL,
    attempts     INTEGER NOT NULL,
    parks        INTEGER NOT NULL,
    code         INTEGER NOT NULL,
    duration     INTEGER NOT NULL,
    target_id    TEXT    NOT NULL,
    reason       TEXT    NOT NULL,
    error        TEXT    NOT NULL,
    history      TEXT    NOT NULL,
    attributes   TEXT    NOT NULL,
    crc          INTEGER NOT NULL,
    body         BLOB    NOT NULL
) STRICT;

CREATE INDEX dead_route ON dead (route_id);

-- How many rows of parked and dead each route has, kept in the transactions that add and remove them, so that counting costs nothing.
CREATE TABLE tallies (
    route_id INTEGER PRIMARY KEY,
    parked   INTEGER NOT NULL,
    dead     INTEGER NOT NULL
) STRICT;
