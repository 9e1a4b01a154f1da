-- +goose Up

-- What work that takes several steps has to remember between them, by name.
CREATE TABLE notes (
    name text COLLATE "C" PRIMARY KEY,
    note text NOT NULL
);
