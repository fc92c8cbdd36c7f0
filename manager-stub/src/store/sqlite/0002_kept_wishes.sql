-- The wish that an instance drain outlives the manager; empty for none.
ALTER TABLE instance ADD COLUMN drain_wish TEXT NOT NULL DEFAULT '';

-- A run that has been started keeps its exclusive key in the queue as well.
INSERT OR IGNORE INTO exclusive (project, key, task)
    SELECT live.project, task.exclusive_key, live.task
    FROM live JOIN task ON task.project = live.project AND task.task = live.task
    WHERE task.exclusive_key <> '' AND live.started_at > 0;
