-- +goose Up

-- One row for each topic. Its records are in the table log_records_<id>.
CREATE TABLE log_topics (
    id    INTEGER PRIMARY KEY,
    name  TEXT    NOT NULL UNIQUE,
    first INTEGER NOT NULL, -- offset of the oldest record kept
    next  INTEGER NOT NULL, -- a lower bound of the next offset; log_appends knows what came after
    crc   INTEGER NOT NULL  -- CRC32C of the name
);

-- Every group's place: all records before "next" are finished.
CREATE TABLE log_groups (
    topic INTEGER NOT NULL,
    name  TEXT    NOT NULL,
    next  INTEGER NOT NULL,
    crc   INTEGER NOT NULL, -- CRC32C of the three
    PRIMARY KEY (topic, name)
) WITHOUT ROWID;

-- What was appended lately, one row for each topic and transaction: how many records from which offset on, and the
-- hashes of their identities. Removed when the hashes have gone to log_ids.
CREATE TABLE log_appends (
    seq    INTEGER PRIMARY KEY,
    topic  INTEGER NOT NULL,
    first  INTEGER NOT NULL,
    count  INTEGER NOT NULL,
    hashes BLOB    NOT NULL -- empty, or six bytes for each record; then the CRC32C of it all
);

-- Where known identities are: sorted, never changed sets of (hash, topic, offset), each cut into blocks by hash.
CREATE TABLE log_sets (
    id     INTEGER PRIMARY KEY,
    blocks INTEGER NOT NULL,
    count  INTEGER NOT NULL
);

-- The block's number is the set's id << 32 + its place in the set.
CREATE TABLE log_ids (
    block   INTEGER PRIMARY KEY,
    entries BLOB NOT NULL
);

-- One row: what keys the hashes, so that nobody can choose identities that fall together.
CREATE TABLE log_secret (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    secret BLOB NOT NULL
);
INSERT INTO log_secret VALUES (1, randomblob(16));
