-- Keys with which the OIDC issuer signs tokens. They belong to the manager and to no project.
CREATE TABLE oidc_key (
    kid TEXT NOT NULL PRIMARY KEY,
    pkcs8 BLOB NOT NULL,
    created_ms INTEGER NOT NULL,
    signs_from_ms INTEGER NOT NULL
) WITHOUT ROWID;
