//! The form of role ARNs and region names. Pure text: whether they exist, AWS says.

/// What is wrong, and what to do.
pub(crate) type Complaint = (String, &'static str);

/// No name of a region comes near it, and it still is a part of a host's name.
const MAX_REGION_BYTES: usize = 63;

const EXAMPLE: &str = "for example arn:aws:iam::222222222222:role/deployer";

/// Is it the ARN of an IAM role?
pub(crate) fn check_role_arn(arn: &str) -> Result<(), Complaint> {
    let shown: String = arn.chars().take(120).collect();
    let complain = |what: &str, hint| Err((format!("`{shown}` is not the ARN of a role: {what}"), hint));
    let parts: Vec<&str> = arn.splitn(6, ':').collect();
    let &[prefix, partition, service, region, account, resource] = parts.as_slice() else {
        return complain("it does not have six parts with `:` between them", EXAMPLE);
    };
    if prefix != "arn" || !(partition == "aws" || partition.starts_with("aws-")) {
        return complain("it does not begin with `arn:aws:`", EXAMPLE);
    }
    if service != "iam" {
        let hint = if service == "sts" {
            "name the role itself (`iam`, `role/…`), not a session of it"
        } else {
            EXAMPLE
        };
        return complain(&format!("the service is `{service}`, not `iam`"), hint);
    }
    if !region.is_empty() {
        return complain("IAM ARNs have no region", EXAMPLE);
    }
    if account.len() != 12 || !account.bytes().all(|byte| byte.is_ascii_digit()) {
        return complain(&format!("the account id `{account}` does not have 12 digits"), EXAMPLE);
    }
    let name = resource.strip_prefix("role/").unwrap_or_default();
    if name.is_empty() {
        return complain(&format!("`{resource}` is not `role/…`"), EXAMPLE);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-/".contains(&byte);
    if name.len() > 576 || !name.bytes().all(allowed) {
        return complain(
            "the role's name has characters that names of roles cannot have",
            EXAMPLE,
        );
    }
    Ok(())
}

/// Is it the name of a region? What is made of a region is the name of a host.
#[must_use]
pub fn is_region(text: &str) -> bool {
    check_region(text).is_ok()
}

/// The region that an ARN names, if it is an ARN and names one.
///
/// # Errors
/// What it names there is no region.
pub fn region_of_arn(text: &str) -> Result<Option<&str>, BadRegion> {
    let region = text.strip_prefix("arn:").and_then(|rest| rest.split(':').nth(2));
    match region.filter(|region| !region.is_empty()) {
        Some(region) if !is_region(region) => Err(BadRegion(region.chars().take(60).collect())),
        region => Ok(region),
    }
}

/// What stands where a region should is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a region")]
pub struct BadRegion(String);

/// What is wrong with the name of a bucket: it becomes part of an address.
#[must_use]
pub fn bucket_problem(bucket: &str) -> Option<&'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let good = (3..=255).contains(&bucket.len())
        && bucket.starts_with(|first: char| first.is_ascii_alphanumeric())
        && bucket.bytes().all(allowed)
        && !bucket.contains("..");
    (!good).then_some("3 letters or more, digits, `.`, `-` or `_`, beginning with a letter or digit")
}

/// Does it look like the name of a region?
pub(crate) fn check_region(region: &str) -> Result<(), Complaint> {
    let parts: Vec<&str> = region.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let good = match parts.as_slice() {
        [words @ .., number] => {
            words.len() >= 2
                && words.iter().all(is_word)
                && region.len() <= MAX_REGION_BYTES
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        [] => false,
    };
    let shown: String = region.chars().take(60).collect();
    if good {
        Ok(())
    } else {
        Err((
            format!("`{shown}` is not the name of a region"),
            "for example eu-west-1",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn role_arns_are_told_from_what_only_looks_like_them() {
        for good in [
            "arn:aws:iam::222222222222:role/deployer",
            "arn:aws-cn:iam::012345678901:role/a/b/c@d",
        ] {
            assert_eq!(check_role_arn(good), Ok(()));
        }
        for bad in [
            "",
            "deployer",
            "arn:aws:iam::22222222222:role/x",
            "arn:aws:iam::222222222222:user/x",
            "arn:aws:iam:eu-west-1:222222222222:role/x",
            "arn:aws:sts::222222222222:assumed-role/x/y",
            "arn:aws:iam::222222222222:role/",
            "arn:aws:iam::222222222222:role/a b",
            "aws:arn:iam::222222222222:role/x",
        ] {
            assert!(check_role_arn(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn regions_have_words_and_a_number() {
        for good in ["eu-west-1", "us-gov-east-1", "ap-southeast-12"] {
            assert_eq!(check_region(good), Ok(()));
        }
        for bad in [
            "",
            "eu-west1",
            "Ireland",
            "eu-west-",
            "EU-WEST-1",
            "1",
            "evil.example/x",
            "x@10.0.0.5/",
            "eu-west-1.evil.example",
        ] {
            assert!(check_region(bad).is_err(), "{bad}");
        }
        assert!(!is_region(&format!("eu-{}-1", "x".repeat(80))));
    }

    #[test]
    fn an_arn_names_a_region_or_none_and_nothing_else() {
        let region = region_of_arn;
        assert_eq!(region("arn:aws:ssm:eu-west-1:2:parameter/a"), Ok(Some("eu-west-1")));
        assert_eq!(region("arn:aws:s3:::bucket"), Ok(None));
        assert_eq!(region("a/name"), Ok(None));
        for bad in [
            "arn:aws:ssm:evil.example/x:2:parameter/a",
            "arn:aws:ssm:x@10.0.0.5/:2:a",
            "arn:aws:ssm:*:2:a",
        ] {
            assert!(region(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn buckets_have_names_that_may_stand_in_an_address() {
        for good in ["artefacts", "my.bucket-2", "Old_Bucket"] {
            assert_eq!(bucket_problem(good), None, "{good}");
        }
        for bad in [
            "",
            "ab",
            "..",
            "a..b",
            ".a.b",
            "a/b/c",
            "evil.example/x",
            "a b c",
            "x@host",
        ] {
            assert!(bucket_problem(bad).is_some(), "{bad}");
        }
    }
}
