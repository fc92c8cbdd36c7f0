//! The form of role ARNs and region names. Pure text: whether they exist, AWS says.

/// What is wrong, and what to do.
pub(crate) type Complaint = (String, &'static str);

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

/// Does it look like the name of a region?
pub(crate) fn check_region(region: &str) -> Result<(), Complaint> {
    let parts: Vec<&str> = region.split('-').collect();
    let is_word = |part: &&str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase());
    let good = match parts.as_slice() {
        [words @ .., number] => {
            words.len() >= 2
                && words.iter().all(is_word)
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
        for bad in ["", "eu-west1", "Ireland", "eu-west-", "EU-WEST-1", "1"] {
            assert!(check_region(bad).is_err(), "{bad}");
        }
    }
}
