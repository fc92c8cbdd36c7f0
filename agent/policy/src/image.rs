//! Image references as container runtimes read them: which registry, which repository.

/// A reference, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageName {
    /// For example `docker.io`, in lower case.
    pub registry: String,
    /// For example `library/nginx`.
    pub repository: String,
    /// After the colon.
    pub tag: Option<String>,
    /// After the `@`.
    pub digest: Option<String>,
}

/// Names of Docker Hub that all mean the same.
const DOCKER_HUB: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];

impl ImageName {
    /// Takes a reference apart. There is no wrong one here: what a runtime would refuse is not pulled.
    #[must_use]
    pub fn of(reference: &str) -> Self {
        let reference = reference.trim();
        let (rest, digest) = match reference.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (reference, None),
        };
        let (registry, path) = match rest.split_once('/') {
            // Only a host has a dot, a port, or is localhost; anything else is a part of Docker Hub.
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" || has_upper(host) => {
                (host.to_ascii_lowercase(), path)
            }
            _ => (DOCKER_HUB[0].to_owned(), rest),
        };
        let (repository, tag) = match path.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag.to_owned())),
            None => (path, None),
        };
        let is_hub = DOCKER_HUB.contains(&registry.as_str());
        let repository = if is_hub && !repository.contains('/') {
            format!("library/{repository}")
        } else {
            repository.to_owned()
        };
        Self {
            registry: if is_hub { DOCKER_HUB[0].to_owned() } else { registry },
            repository,
            tag,
            digest,
        }
    }
}

/// Repositories are lower case, so a first part with capitals is read as a host.
fn has_upper(part: &str) -> bool {
    part.bytes().any(|byte| byte.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read_as_container_runtimes_read_them() {
        for (reference, registry, repository, tag) in [
            ("nginx", "docker.io", "library/nginx", None),
            ("nginx:1.27", "docker.io", "library/nginx", Some("1.27")),
            ("acme/api:2", "docker.io", "acme/api", Some("2")),
            ("index.docker.io/nginx", "docker.io", "library/nginx", None),
            ("localhost/api", "localhost", "api", None),
            ("reg:5000/api:2", "reg:5000", "api", Some("2")),
            ("Evil.Example/x/y", "evil.example", "x/y", None),
            (
                "222222222222.dkr.ecr.eu-west-1.amazonaws.com/shop/api:v3",
                "222222222222.dkr.ecr.eu-west-1.amazonaws.com",
                "shop/api",
                Some("v3"),
            ),
            // A registry's name inside a path is no registry.
            (
                "evil/222222222222.dkr.ecr.eu-west-1.amazonaws.com/api",
                "docker.io",
                "evil/222222222222.dkr.ecr.eu-west-1.amazonaws.com/api",
                None,
            ),
        ] {
            let name = ImageName::of(reference);
            assert_eq!(
                (name.registry.as_str(), name.repository.as_str(), name.tag.as_deref()),
                (registry, repository, tag),
                "{reference}"
            );
        }
        let pinned = ImageName::of("ghcr.io/acme/api@sha256:00ff");
        assert_eq!((pinned.tag, pinned.digest.as_deref()), (None, Some("sha256:00ff")));
    }
}
