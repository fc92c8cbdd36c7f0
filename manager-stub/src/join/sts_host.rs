//! The hosts of AWS STS that a signed identity may name: the manager's own list, never the agent's word.
//!
//! The list is spelled out and no pattern: under `amazonaws.com` there are names that anybody can have
//! (`sts.s3.amazonaws.com` is a bucket called `sts`).

use std::collections::BTreeMap;

/// Signed for this region, the global host is meant.
const GLOBAL: (&str, &str) = ("sts.amazonaws.com", "us-east-1");

/// The regions of the partitions `aws` and `aws-us-gov`, and of `aws-cn`, whose hosts end in `.amazonaws.com.cn`
/// (https://docs.aws.amazon.com/general/latest/gr/sts.html). One that is newer is given with `--sts-host`.
const REGIONS: &[&str] = &[
    "af-south-1",
    "ap-east-1",
    "ap-east-2",
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-south-2",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-southeast-3",
    "ap-southeast-4",
    "ap-southeast-5",
    "ap-southeast-6",
    "ap-southeast-7",
    "ca-central-1",
    "ca-west-1",
    "eu-central-1",
    "eu-central-2",
    "eu-north-1",
    "eu-south-1",
    "eu-south-2",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "il-central-1",
    "me-central-1",
    "me-south-1",
    "mx-central-1",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-gov-east-1",
    "us-gov-west-1",
    "us-west-1",
    "us-west-2",
];
const REGIONS_CHINA: &[&str] = &["cn-north-1", "cn-northwest-1"];
/// Regions with a host for FIPS 140 (https://aws.amazon.com/compliance/fips/).
const REGIONS_FIPS: &[&str] = &["us-east-1", "us-east-2", "us-west-1", "us-west-2"];

/// Hosts, each with the region that its signatures are scoped to.
#[derive(Debug, Clone)]
pub struct StsHosts(BTreeMap<String, String>);

impl Default for StsHosts {
    /// Every public host.
    fn default() -> Self {
        let mut hosts = BTreeMap::from([(GLOBAL.0.to_owned(), GLOBAL.1.to_owned())]);
        let mut add = |host: String, region: &str| hosts.insert(host, region.to_owned());
        for region in REGIONS {
            add(format!("sts.{region}.amazonaws.com"), region);
        }
        for region in REGIONS_CHINA {
            add(format!("sts.{region}.amazonaws.com.cn"), region);
        }
        for region in REGIONS_FIPS {
            add(format!("sts-fips.{region}.amazonaws.com"), region);
        }
        Self(hosts)
    }
}

impl StsHosts {
    /// These and no others: `sts.REGION.…`, or `HOST=REGION` where the name does not tell.
    ///
    /// # Errors
    /// Which of them names no region, or is no host.
    pub fn only(given: &[String]) -> Result<Self, String> {
        let hosts = given.iter().map(|entry| {
            let (host, region) = match entry.split_once('=') {
                Some((host, region)) => (host, region),
                None if entry == GLOBAL.0 => GLOBAL,
                None => (entry.as_str(), region_of(entry).unwrap_or_default()),
            };
            let is_name = |text: &str, also: &str| {
                !text.is_empty()
                    && text
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || also.contains(c))
            };
            if !is_name(host, "-.") {
                return Err(format!("{entry:?} is no host name in lower case"));
            }
            if !is_name(region, "-") {
                return Err(format!("{entry:?} names no region; write HOST=REGION"));
            }
            Ok((host.to_owned(), region.to_owned()))
        });
        hosts.collect::<Result<_, _>>().map(Self)
    }

    /// The region of a host of the list.
    pub(crate) fn region(&self, host: &str) -> Option<&str> {
        self.0.get(host).map(String::as_str)
    }

    /// A few of them, for a message.
    pub(crate) fn examples(&self) -> String {
        let mut names: Vec<&str> = self.0.keys().map(String::as_str).take(3).collect();
        if self.0.len() > names.len() {
            names.push("…");
        }
        names.join(", ")
    }
}

/// `sts.eu-west-1.amazonaws.com` is of `eu-west-1`.
fn region_of(host: &str) -> Option<&str> {
    let rest = host.strip_prefix("sts.").or_else(|| host.strip_prefix("sts-fips."))?;
    let region = rest.split('.').next()?;
    region.contains('-').then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_hosts_are_known_with_their_regions_and_nothing_that_only_looks_like_one() {
        let hosts = StsHosts::default();
        for (host, region) in [
            ("sts.amazonaws.com", "us-east-1"),
            ("sts.eu-west-1.amazonaws.com", "eu-west-1"),
            ("sts.cn-north-1.amazonaws.com.cn", "cn-north-1"),
            ("sts-fips.us-west-2.amazonaws.com", "us-west-2"),
        ] {
            assert_eq!(hosts.region(host), Some(region));
        }
        for host in [
            "sts.s3.amazonaws.com",
            "sts.s3-eu-west-1.amazonaws.com",
            "sts.evil.com",
            "sts.amazonaws.com.evil.com",
            "sts.eu-west-1.amazonaws.com.",
            "STS.amazonaws.com",
            "sts.amazonaws.com:443",
            "sts.amazonaws.com/x",
            "",
        ] {
            assert_eq!(hosts.region(host), None, "{host}");
        }
    }

    #[test]
    fn an_own_list_replaces_the_public_one() {
        let given = ["sts.xx-new-1.amazonaws.com", "vpce-1.sts.example=eu-west-1"].map(str::to_owned);
        let hosts = StsHosts::only(&given).expect("good");
        assert_eq!(hosts.region("sts.xx-new-1.amazonaws.com"), Some("xx-new-1"));
        assert_eq!(hosts.region("vpce-1.sts.example"), Some("eu-west-1"));
        assert_eq!(hosts.region("sts.amazonaws.com"), None);
        assert_eq!(hosts.examples(), "sts.xx-new-1.amazonaws.com, vpce-1.sts.example");
        let told = ["sts.example.com", "https://x=eu-west-1", "x=", "=eu-west-1"]
            .map(|entry| StsHosts::only(&[entry.to_owned()]).expect_err(entry));
        insta::assert_snapshot!(told.join("\n"), @r#"
        "sts.example.com" names no region; write HOST=REGION
        "https://x=eu-west-1" is no host name in lower case
        "x=" names no region; write HOST=REGION
        "=eu-west-1" is no host name in lower case
        "#);
    }
}
