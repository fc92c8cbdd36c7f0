-- What the manager remembers of people, join rules, join tokens and agents with their certificates. Secrets are hashed.
CREATE TABLE trust (
    project TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (project, kind, name)
) WITHOUT ROWID;
