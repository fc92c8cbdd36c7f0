//! The environment that decides where AWS is and which identity is ambient. Injected, so that
//! nothing below reads the process's environment behind its caller's back.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use aws_types::service_config::{LoadServiceConfig, ServiceConfigKey};

/// Where every service is.
const ENDPOINT: &str = "AWS_ENDPOINT_URL";

/// Variables by name. Cheap to clone; `Debug` shows names only, for values may be keys.
#[derive(Clone, Default)]
pub struct Env(Arc<BTreeMap<String, String>>);

impl Env {
    /// This process's environment; variables that are not UTF-8 are left out.
    #[must_use]
    pub fn from_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect()
    }

    /// The value of `name`, unless it is unset or blank.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// Is `name` set to `true`?
    #[must_use]
    pub fn is_true(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// `AWS_ENDPOINT_URL`, unless configured endpoints are to be ignored.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.get(ENDPOINT).filter(|_| !self.ignores(ENDPOINT))
    }

    /// The same for a service, as variables name it (`S3`), whose own endpoint wins.
    pub(crate) fn endpoint_of(&self, service: &str) -> Option<&str> {
        self.of_service(ENDPOINT, service)
    }

    fn of_service(&self, name: &str, service: &str) -> Option<&str> {
        let own = self.get(&format!("{name}_{service}"));
        own.or_else(|| self.get(name)).filter(|_| !self.ignores(name))
    }

    fn ignores(&self, name: &str) -> bool {
        name == ENDPOINT && self.is_true("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS")
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(Arc::new(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        ))
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// `AWS_ENDPOINT_URL_<SERVICE>`, as every AWS SDK reads it. Profiles are not read: an agent has none.
impl LoadServiceConfig for Env {
    fn load_config(&self, key: ServiceConfigKey<'_>) -> Option<String> {
        let service = key.service_id().to_uppercase().replace([' ', '-'], "_");
        self.of_service(key.env(), &service).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_of(env: &Env, service: &str) -> Option<String> {
        let key = ServiceConfigKey::builder()
            .service_id(service)
            .env("AWS_ENDPOINT_URL")
            .profile("endpoint_url")
            .build();
        env.load_config(key.expect("complete"))
    }

    #[test]
    fn a_services_own_endpoint_wins_over_the_general_one() {
        let env: Env = [
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_ENDPOINT_URL_APPLICATION_AUTO_SCALING", "http://one"),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            endpoint_of(&env, "Application Auto Scaling").as_deref(),
            Some("http://one")
        );
        assert_eq!(endpoint_of(&env, "ECS").as_deref(), Some("http://all"));
        let ignored: Env = [
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true"),
        ]
        .into_iter()
        .collect();
        assert_eq!(endpoint_of(&ignored, "ECS"), None);
        assert_eq!((env.endpoint(), ignored.endpoint()), (Some("http://all"), None));
    }

    #[test]
    fn debug_shows_names_and_no_values() {
        let env: Env = [("AWS_SECRET_ACCESS_KEY", "wJalr")].into_iter().collect();
        assert_eq!(format!("{env:?}"), r#"{"AWS_SECRET_ACCESS_KEY"}"#);
    }
}
