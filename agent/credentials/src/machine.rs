//! What kind of machine the agent runs on, as far as it decides where an identity may come from.

use std::path::Path;

/// Where the kernel says who made the machine.
const VENDOR: &str = "/sys/devices/virtual/dmi/id/sys_vendor";

/// The vendor of EC2 instances (AWS: "Detect whether a host is an EC2 instance").
const EC2: &str = "Amazon EC2";

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
        Self::of(Path::new(VENDOR))
    }

    fn of(vendor: &Path) -> Self {
        match std::fs::read_to_string(vendor) {
            Ok(text) if text.trim() == EC2 => Self::Ec2,
            Ok(_) | Err(_) => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_known_by_its_vendor() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("sys_vendor");
        assert_eq!(Machine::of(&file), Machine::Other);
        std::fs::write(&file, "Amazon EC2\n").expect("written");
        assert_eq!(Machine::of(&file), Machine::Ec2);
        std::fs::write(&file, "QEMU\n").expect("written");
        assert_eq!(Machine::of(&file), Machine::Other);
    }
}
