//! What the children of an agent that runs as root may not do as root. Called on the thread that starts a child.
//!
//! Landlock does not hold everybody: who may measure performance reads any process's environment, who may open files
//! by number needs no path, who may listen to a network interface hears the credential endpoints of other tasks.

use std::io;

use rustix::io::Errno;
use rustix::thread::{
    CapabilitySet, capability_is_in_bounding_set, clear_ambient_capability_set, remove_capability_from_bounding_set,
};

/// About files of one's own, users and small ports: what scripts of root use.
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::AUDIT_WRITE);

/// Gives up, for this thread's children, all others. The kernel takes them when the child's program starts.
pub(crate) fn give_up() -> io::Result<()> {
    clear_ambient_capability_set()?;
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !KEPT.contains(one) => match remove_capability_from_bounding_set(one) {
                // Only root may, and only root has anything to give up.
                Err(Errno::PERM) if !rustix::process::geteuid().is_root() => return Ok(()),
                removed => removed?,
            },
            Ok(_) => {}
            // This kernel knows no more.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
