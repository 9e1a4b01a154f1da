-- Times are nanoseconds since 1970 in UTC; 0 means none. Durations are nanoseconds. Columns stand widest first, so that rows have no gaps.
-- States: 1 parked, 2 delivered, 3 dead, 4 skipped.

-- +goose Up

-- Short numbers for names, so that a row of the ledger is small. Rows are never removed.
CREATE TABLE routes (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE sources (
    id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL UNIQUE
);

CREATE TABLE partitions (
    id        integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic     text COLLATE "C" NOT NULL,
    partition integer NOT NULL,
    UNIQUE (topic, partition)
);

-- One row for each delivery that has been decided or parked, by the time at which its event was recorded. The key decides between two hubs
-- that settle the same record; its first three columns find an event that comes from another place in the log.
CREATE TABLE deliveries (
    recorded     bigint   NOT NULL,
    decided_at   bigint   NOT NULL,
    duration     bigint   NOT NULL,
    log_offset   bigint   NOT NULL,
    route_id     integer  NOT NULL,
    source_id    integer  NOT NULL,
    partition_id integer  NOT NULL,
    attempts     integer  NOT NULL,
    code         integer  NOT NULL,
    state        smallint NOT NULL,
    event_id     text COLLATE "C" NOT NULL,
    target_id    text     NOT NULL,
    reason       text,
    error        text,
    PRIMARY KEY (route_id, source_id, event_id, recorded)
) PARTITION BY RANGE (recorded);

-- Rows lie nearly in the order in which they were decided: a summary of blocks finds the latest and costs the writer next to nothing.
CREATE INDEX deliveries_decided ON deliveries USING brin (decided_at) WITH (pages_per_range = 32, autosummarize = on);

-- What no other part takes: times far away, and what outlived its part.
CREATE TABLE deliveries_rest PARTITION OF deliveries DEFAULT;

-- A parked delivery with its whole event. number is the order in which they were parked.
-- key_hash: of source and key; null for a delivery without a key.
-- head: true for the eldest of its key and for every delivery without a key.
-- due_at: next_at, or lease_until while it is leased, so that the index finds what is due and nothing else.
CREATE TABLE parked (
    number       bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded     bigint   NOT NULL,
    log_offset   bigint   NOT NULL,
    next_at      bigint   NOT NULL,
    due_at       bigint   NOT NULL,
    lease_until  bigint   NOT NULL,
    parked_at    bigint   NOT NULL,
    first_at     bigint   NOT NULL,
    crc          bigint   NOT NULL,
    route_id     integer  NOT NULL,
    source_id    integer  NOT NULL,
    partition_id integer  NOT NULL,
    attempts     integer  NOT NULL,
    parks        integer  NOT NULL,
    head         boolean  NOT NULL,
    key_hash     uuid,
    event_id     text COLLATE "C" NOT NULL,
    history      text     NOT NULL,
    attributes   text     NOT NULL,
    body         bytea    NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.05);

CREATE UNIQUE INDEX parked_identity ON parked (route_id, source_id, event_id, recorded);
CREATE UNIQUE INDEX parked_head ON parked (route_id, key_hash) WHERE head AND key_hash IS NOT NULL;
CREATE INDEX parked_key ON parked (route_id, key_hash, number) WHERE key_hash IS NOT NULL;
CREATE INDEX parked_due ON parked (route_id, due_at, number) WHERE head;
CREATE INDEX parked_age ON parked (route_id, parked_at);

-- A dead letter with its whole event.
CREATE TABLE dead (
    number       bigint   GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    recorded     bigint   NOT NULL,
    decided_at   bigint   NOT NULL,
    first_at     bigint   NOT NULL,
    duration     bigint   NOT NULL,
    log_offset   bigint   NOT NULL,
    crc          bigint   NOT NULL,
    route_id     integer  NOT NULL,
    source_id    integer  NOT NULL,
    partition_id integer  NOT NULL,
    attempts     integer  NOT NULL,
    parks        integer  NOT NULL,
    code         integer  NOT NULL,
    event_id     text COLLATE "C" NOT NULL,
    target_id    text     NOT NULL,
    reason       text     NOT NULL,
    error        text     NOT NULL,
    history      text     NOT NULL,
    attributes   text     NOT NULL,
    body         bytea    NOT NULL
);

CREATE INDEX dead_route ON dead (route_id, number);
CREATE INDEX dead_recorded ON dead (recorded);

-- Where every event is in the log.
CREATE TABLE event_index (
    recorded     bigint   NOT NULL,
    happened     bigint   NOT NULL,
    log_offset   bigint   NOT NULL,
    source_id    integer  NOT NULL,
    partition_id integer  NOT NULL,
    event_id     text COLLATE "C" NOT NULL,
    type         text     NOT NULL,
    subject      text     NOT NULL,
    key          text     NOT NULL,
    body_hash    bytea    NOT NULL,
    PRIMARY KEY (source_id, event_id, recorded, partition_id, log_offset)
) PARTITION BY RANGE (recorded);

CREATE TABLE event_index_rest PARTITION OF event_index DEFAULT;

-- The parts of the partitioned tables: from_ns included, until_ns not.
CREATE TABLE spans (
    name     text   PRIMARY KEY,
    parent   text   NOT NULL,
    from_ns  bigint NOT NULL,
    until_ns bigint NOT NULL
);

-- What one hub at a time does.
CREATE TABLE leases (
    name   text PRIMARY KEY,
    holder text NOT NULL,
    until  timestamptz NOT NULL
);

-- The hubs that are running.
CREATE TABLE hubs (
    instance       text PRIMARY KEY,
    run            uuid NOT NULL,
    cluster_config text NOT NULL,
    started        timestamptz NOT NULL,
    seen           timestamptz NOT NULL
);
