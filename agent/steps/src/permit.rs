//! The permit to change the world: what an acknowledged intent is worth at the moment of
//! transmission. Checked against CLOCK_BOOTTIME right before every transmission, retries included.

use deputy_task::boot_time::BootTime;

/// Given to the `act` of an effect. A mutation without one, or after its deadline, is refused by
/// the AWS and Kubernetes clients of this crate.
#[derive(Debug, Clone, Copy)]
pub struct Permit {
    deadline: BootTime,
}

/// The permit's time was over before the request was transmitted; nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the permit for this change was over before the request could be sent, so it was not sent")]
pub struct PermitExpired;

impl Permit {
    /// A permit that lasts until `deadline`. Only the executor makes one, from an acknowledged intent.
    #[must_use]
    pub const fn until(deadline: BootTime) -> Self {
        Self { deadline }
    }

    /// When it ends.
    #[must_use]
    pub const fn deadline(self) -> BootTime {
        self.deadline
    }

    /// Asked right before every transmission.
    ///
    /// # Errors
    /// [`PermitExpired`] if the deadline has passed.
    pub fn check(self) -> Result<(), PermitExpired> {
        if now() < self.deadline {
            Ok(())
        } else {
            Err(PermitExpired)
        }
    }
}

/// CLOCK_BOOTTIME now.
#[must_use]
pub fn now() -> BootTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    BootTime::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
