-- +goose Up

-- How far each consumer group has got in the log, as Kafka has confirmed it. Kafka forgets that of a group that has had no member for a while.
-- topic_id tells the topic from one of the same name that was there before; all zeros where Kafka does not say.
CREATE TABLE places (
    topic_id     uuid    NOT NULL,
    log_offset   bigint  NOT NULL,
    confirmed_at bigint  NOT NULL,
    partition    integer NOT NULL,
    group_name   text COLLATE "C" NOT NULL,
    topic        text COLLATE "C" NOT NULL,
    PRIMARY KEY (group_name, topic, partition)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
