//! CLOCK_BOOTTIME: leases and deadlines are measured on it, because it counts while the machine is
//! suspended and nobody can set it.

use deputy_task::boot_time::BootTime;

/// Nanoseconds since boot, now.
pub(crate) fn boot_now() -> BootTime {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    BootTime::from_nanos(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
}
