//! What kind of machine the agent runs on, as far as it decides where an identity may come from.

use std::path::Path;

/// Where the kernel says who made the machine; on Nitro instances AWS.
const VENDOR: &str = "sys/devices/virtual/dmi/id/sys_vendor";

/// The vendor of EC2 instances (AWS: "Detect whether a host is an EC2 instance").
const EC2: &str = "Amazon EC2";

/// The machine's own number on Xen instances, readable by everybody; there the vendor is Xen.
const XEN_UUID: &str = "sys/hypervisor/uuid";

/// The machine's own number on both, readable by root.
const PRODUCT_UUID: &str = "sys/devices/virtual/dmi/id/product_uuid";

/// What kind of machine this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Machine {
    /// An EC2 instance, or a container on one.
    Ec2,
    /// Anything else, or it cannot be told.
    Other,
}

impl Machine {
    /// This one.
    pub(crate) fn read() -> Self {
        Self::below(Path::new("/"))
    }

    fn below(root: &Path) -> Self {
        let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap_or_default();
        if read(VENDOR).trim() == EC2 || [XEN_UUID, PRODUCT_UUID].into_iter().any(|file| is_of_ec2(&read(file))) {
            Self::Ec2
        } else {
            Self::Other
        }
    }
}

/// AWS: it "starts with ec2, in either uppercase or lowercase", or says so in its first part when that is read as a
/// little-endian number, as `45E12AEC-…` does.
fn is_of_ec2(uuid: &str) -> bool {
    let first = uuid.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
    let Ok(number) = u32::from_str_radix(&first, 16) else {
        return false;
    };
    first.len() == 8
        && [number, number.swap_bytes()]
            .into_iter()
            .any(|number| number >> 20 == 0xec2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_known_by_its_vendor_or_by_its_number() {
        for (file, text, machine) in [
            (VENDOR, "Amazon EC2\n", Machine::Ec2),
            (VENDOR, "QEMU\n", Machine::Other),
            (VENDOR, "Xen\n", Machine::Other),
            (XEN_UUID, "ec2e1916-9099-7caf-fd21-012345abcdef\n", Machine::Ec2),
            (XEN_UUID, "45e12aec-dcd1-b213-94ed-012345abcdef\n", Machine::Ec2),
            (XEN_UUID, "5f3ae1c2-0000-4000-8000-000000000000\n", Machine::Other),
            (PRODUCT_UUID, "EC2E1916-9099-7CAF-FD21-012345ABCDEF\n", Machine::Ec2),
            (PRODUCT_UUID, "45E12AEC-DCD1-B213-94ED-012345ABCDEF\n", Machine::Ec2),
            (PRODUCT_UUID, "ec2\n", Machine::Other),
            (PRODUCT_UUID, "\n", Machine::Other),
        ] {
            let root = tempfile::tempdir().expect("a folder");
            assert_eq!(Machine::below(root.path()), Machine::Other);
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            std::fs::write(path, text).expect("written");
            assert_eq!(Machine::below(root.path()), machine, "{file} {text}");
        }
    }
}
