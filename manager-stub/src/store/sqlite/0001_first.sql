-- Every key begins with the project; fleet-wide rows have the empty one.
-- Times are milliseconds on the store's clock; 0 means not yet.

CREATE TABLE meta (
    project TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (project, name)
) WITHOUT ROWID;

-- What never changes about a task. The document is the last column: readers of the others do not touch its pages.
CREATE TABLE task (
    project TEXT NOT NULL,
    task TEXT NOT NULL,
    name TEXT NOT NULL,
    labels TEXT NOT NULL,
    submitter TEXT NOT NULL,
    submitted_at INTEGER NOT NULL,
    exclusive_key TEXT NOT NULL,
    on_agent_loss TEXT NOT NULL,
    queue_timeout_ms INTEGER,
    needs TEXT NOT NULL,
    bundles TEXT NOT NULL,
    document BLOB NOT NULL,
    PRIMARY KEY (project, task)
) WITHOUT ROWID;

-- What changes, of tasks that live. Ended ones are in `history`, so that work here stays small.
CREATE TABLE live (
    project TEXT NOT NULL,
    task TEXT NOT NULL,
    state INTEGER NOT NULL,
    run INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    agent TEXT,
    instance TEXT,
    condition TEXT NOT NULL,
    cancel TEXT NOT NULL,
    revision INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    deadline_at INTEGER NOT NULL,
    resolve INTEGER NOT NULL,
    result BLOB NOT NULL,
    PRIMARY KEY (project, task)
) WITHOUT ROWID;

CREATE TABLE history (
    project TEXT NOT NULL,
    task TEXT NOT NULL,
    state INTEGER NOT NULL,
    run INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    agent TEXT,
    instance TEXT,
    condition TEXT NOT NULL,
    cancel TEXT NOT NULL,
    revision INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,
    started_at INTEGER NOT NULL,
    finished_at INTEGER NOT NULL,
    deadline_at INTEGER NOT NULL,
    resolve INTEGER NOT NULL,
    result BLOB NOT NULL,
    PRIMARY KEY (project, task)
) WITHOUT ROWID;

-- Submissions by the client's own id.
CREATE TABLE request (
    project TEXT NOT NULL,
    request TEXT NOT NULL,
    task TEXT NOT NULL,
    content BLOB NOT NULL,
    PRIMARY KEY (project, request)
) WITHOUT ROWID;

-- Everything that happened, in commit order; the journal is the events that have a record.
CREATE TABLE event (
    project TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    task TEXT NOT NULL,
    revision INTEGER NOT NULL,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL,
    run INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    state INTEGER NOT NULL,
    agent TEXT,
    condition TEXT NOT NULL,
    record BLOB,
    PRIMARY KEY (project, sequence)
) WITHOUT ROWID;
CREATE INDEX event_by_task ON event (project, task, sequence);

-- Exclusive keys that are held, from ASSIGNED to the end.
CREATE TABLE exclusive (
    project TEXT NOT NULL,
    key TEXT NOT NULL,
    task TEXT NOT NULL,
    PRIMARY KEY (project, key)
) WITHOUT ROWID;

CREATE TABLE instance (
    project TEXT NOT NULL,
    agent TEXT NOT NULL,
    instance TEXT NOT NULL,
    lease_until INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,
    version TEXT NOT NULL,
    capabilities BLOB NOT NULL,
    PRIMARY KEY (project, agent, instance)
) WITHOUT ROWID;

CREATE TABLE log_stream (
    project TEXT NOT NULL,
    task TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    run INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    crc32 INTEGER NOT NULL,
    complete INTEGER NOT NULL,
    PRIMARY KEY (project, task, epoch)
) WITHOUT ROWID;

CREATE TABLE log_extent (
    project TEXT NOT NULL,
    task TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    segment INTEGER NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (project, task, epoch, offset)
) WITHOUT ROWID;

CREATE TABLE blob (
    project TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size_bytes INTEGER NOT NULL,
    stored_at INTEGER NOT NULL,
    PRIMARY KEY (project, sha256)
) WITHOUT ROWID;
