//! What a child may see and change: a Landlock domain around it.
//!
//! Called by whoever starts a program that a task brought. Without a domain a child can do what the agent's user can:
//! read the agent's tokens, other tasks' folders and their memory. Must never be entered by a thread that goes on
//! to do the agent's own work.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, RulesetError, Scope, make_bitflags,
};

use crate::places::{Kind, Place, Places};
use crate::privileges;

/// The rights that are handled: those of the newest kernel that this was tested with.
const RIGHTS: ABI = ABI::V5;
/// The first with scopes for signals and abstract sockets.
const SCOPES: ABI = ABI::V6;

/// What appears in the meantime is not open to the child, and what is to be hidden is not hidden from it if it did not
/// exist.
const LONGEST_AHEAD: Duration = Duration::from_secs(1);

/// Where everybody may write, by Unix custom.
const TEMPORARY: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue"];
/// Devices that hold nobody's data.
const DEVICES: [&str; 8] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
    "/dev/pts",
];

/// What this kernel can do about children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Support {
    /// Files, processes and signals.
    Full,
    /// Files and processes; a child may send signals to every process of its user.
    NoSignals,
    /// Nothing: no Landlock, or its system calls are filtered.
    Missing,
}

/// What is hidden from every child of the agent, and where all of them may write. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Confinement(Arc<Rules>);

#[derive(Debug)]
struct Rules {
    hidden: Vec<PathBuf>,
    writable: Vec<PathBuf>,
}

/// The domain of one task's children, or of some of them.
#[derive(Debug, Clone)]
pub struct Domain {
    confinement: Confinement,
    own: Vec<PathBuf>,
    ahead: Ahead,
}

/// What all children may open, found out while something else is waited for. Cheap to clone; one child gets it.
#[derive(Debug, Clone, Default)]
pub struct Ahead(Arc<Mutex<Option<Begun>>>);

#[derive(Debug)]
struct Begun {
    when: Instant,
    made: mpsc::Receiver<io::Result<RulesetCreated>>,
}

impl Confinement {
    /// `hidden` are files and folders that no child may open; what does not exist is passed over. Children may write
    /// to their task's folder, to temporary folders, and to `writable`, as far as that is not hidden.
    #[must_use]
    pub fn new(hidden: Vec<PathBuf>, writable: Vec<PathBuf>) -> Self {
        Self(Arc::new(Rules { hidden, writable }))
    }

    /// The domain of the task whose folder is `own`, which may be inside what is hidden.
    #[must_use]
    pub fn around(&self, own: &Path) -> Domain {
        Domain {
            confinement: self.clone(),
            own: vec![own.to_owned()],
            ahead: Ahead::default(),
        }
    }

    /// Begins to find out what children may open, on a thread for such work of this runtime.
    #[must_use]
    pub fn ahead(&self) -> Ahead {
        let (confinement, (send, made)) = (self.clone(), mpsc::channel());
        let when = Instant::now();
        tokio::task::spawn_blocking(move || {
            // Nobody takes it if no child is started after all.
            let _unused = send.send(confinement.common());
        });
        Ahead(Arc::new(Mutex::new(Some(Begun { when, made }))))
    }

    /// What every child may open, whatever its task.
    fn common(&self) -> io::Result<RulesetCreated> {
        let Rules { hidden, writable } = &*self.0;
        let read = AccessFs::from_read(RIGHTS);
        let places = Places::new(hidden, &[Path::new("/dev")])?;
        let mut ruleset = empty().map_err(io::Error::other)?;
        let mut open = |path: &Path, rights| places.open(path, &mut |place| allow(&mut ruleset, place, rights));
        open(Path::new("/"), read)?;
        for folder in TEMPORARY.iter().map(Path::new) {
            open(folder, read | change())?;
        }
        for folder in writable {
            open(folder, read | change())?;
        }
        for device in DEVICES {
            open(Path::new(device), read | AccessFs::WriteFile | AccessFs::IoctlDev)?;
        }
        Ok(ruleset)
    }

    /// What the kernel offers; asked once.
    #[must_use]
    pub fn support() -> Support {
        static SUPPORT: LazyLock<Support> = LazyLock::new(|| probe().unwrap_or(Support::Missing));
        *SUPPORT
    }
}

impl Domain {
    /// The same with one more folder that is the children's own, and closed to every other domain if it is hidden.
    #[must_use]
    pub fn with(mut self, own: &Path) -> Self {
        self.own.push(own.to_owned());
        self
    }

    /// One around `own` alone, for children that have no business in the folder of this one.
    #[must_use]
    pub fn instead(&self, own: &Path) -> Self {
        self.confinement.around(own)
    }

    /// Runs `start` on a thread that is inside; what it starts stays inside for ever. The thread ends with it.
    pub(crate) fn start<T: Send>(&self, start: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        let ruleset = self.ruleset()?;
        within(ruleset, start)
    }

    /// The next child takes what was found ahead, if that is not long ago.
    #[must_use]
    pub fn taking(mut self, ahead: Ahead) -> Self {
        self.ahead = ahead;
        self
    }

    fn ruleset(&self) -> io::Result<RulesetCreated> {
        let mut ruleset = match self.ahead.take() {
            Some(ruleset) => ruleset?,
            None => self.confinement.common()?,
        };
        let rights = AccessFs::from_read(RIGHTS) | change();
        for own in &self.own {
            allow(&mut ruleset, Place::at(own)?, rights)?;
        }
        Ok(ruleset)
    }
}

impl Ahead {
    /// Waits until it is found; none if that is too long ago, or somebody else took it.
    fn take(&self) -> Option<io::Result<RulesetCreated>> {
        let begun = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let is_fresh = begun.when.elapsed() < LONGEST_AHEAD;
        is_fresh.then(|| begun.made.recv().ok()).flatten()
    }
}

/// Everything but to make devices.
fn change() -> BitFlags<AccessFs> {
    AccessFs::from_write(RIGHTS) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev})
}

fn allow(ruleset: &mut RulesetCreated, place: Place, rights: BitFlags<AccessFs>) -> io::Result<()> {
    let rights = match place.kind {
        Kind::Folder => rights,
        Kind::Other | Kind::Link => rights & AccessFs::from_file(RIGHTS),
    };
    let added = ruleset.add_rule(PathBeneath::new(place.handle, rights));
    added.map(drop).map_err(io::Error::other)
}

/// Nothing allowed yet; what an older kernel does not know is left out.
fn empty() -> Result<RulesetCreated, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RIGHTS))?
        .scope(Scope::from_all(SCOPES))?
        .create()
}

/// A domain is of a thread and of what that thread starts, so it gets one of its own.
fn within<T: Send>(ruleset: RulesetCreated, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new()
            .name("confined".into())
            .spawn_scoped(scope, || {
                privileges::give_up()?;
                ruleset.restrict_self().map_err(io::Error::other)?;
                work()
            })?;
        inside
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that starts a child panicked")))
    })
}

/// Enters a domain on a thread of its own: also a filter of system calls shows then.
fn probe() -> io::Result<Support> {
    std::thread::spawn(|| {
        let entered = empty()
            .and_then(RulesetCreated::restrict_self)
            .map_err(io::Error::other)?;
        Ok(match entered.landlock {
            LandlockStatus::Available { effective_abi, .. } if effective_abi >= SCOPES => Support::Full,
            LandlockStatus::Available { .. } => Support::NoSignals,
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => Support::Missing,
        })
    })
    .join()
    .unwrap_or_else(|_| Err(io::Error::other("the thread that asked for Landlock panicked")))
}

#[cfg(test)]
mod tests;
