-- The line of keys that an instance is bound to: nobody else speaks for it.
ALTER TABLE instance ADD COLUMN line TEXT NOT NULL DEFAULT '';
