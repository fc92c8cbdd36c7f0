//! Is a value worth hiding? One that is too short is refused; one that is an ordinary word is hidden, and people are
//! told what that does to their log. It tells them no more than the log itself does, where the word is missing.

/// Values that programs print all the time, in small letters.
const ORDINARY: &[&str] = &[
    "true",
    "false",
    "null",
    "none",
    "test",
    "tests",
    "prod",
    "production",
    "staging",
    "stage",
    "development",
    "default",
    "latest",
    "main",
    "master",
    "admin",
    "administrator",
    "root",
    "user",
    "username",
    "guest",
    "public",
    "private",
    "password",
    "passwd",
    "secret",
    "token",
    "changeme",
    "change-me",
    "example",
    "localhost",
    "127.0.0.1",
    "0.0.0.0",
    "http",
    "https",
    "debug",
    "info",
    "warn",
    "warning",
    "error",
    "enabled",
    "disabled",
    "postgres",
    "postgresql",
    "mysql",
    "redis",
    "name",
    "value",
    "key1",
    "1234",
    "12345",
    "123456",
    "12345678",
    "0000",
    "8080",
    "8443",
    "5432",
    "3306",
    "6379",
    "deploy",
    "deployment",
    "service",
    "task",
    "step",
];

/// Is it one of the words that ordinary output is made of?
pub(super) fn is_ordinary(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let text = text.trim().to_lowercase();
    ORDINARY.contains(&text.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_told_from_secrets() {
        assert!(is_ordinary(b"Production\n") && is_ordinary(b"true"));
        assert!(!is_ordinary(b"correct horse") && !is_ordinary(b"\xff\xfe\xfd\xfc"));
    }
}
