-- How many attempts ended with their agents, one after the other, without anything recorded.
ALTER TABLE live ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;
ALTER TABLE history ADD COLUMN losses INTEGER NOT NULL DEFAULT 0;
