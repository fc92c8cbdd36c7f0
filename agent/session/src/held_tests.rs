//! What is used when, by whether the disk takes it. Run with the unit tests.

use super::*;
use crate::identity::millis;

/// A disk that can be full, and tells what is on it.
#[derive(Default)]
struct Disk {
    is_full: Mutex<bool>,
    kept: Mutex<Vec<Arc<Identity>>>,
}

#[async_trait]
impl Keeper for Disk {
    async fn keep(&self, identity: Arc<Identity>) -> Result<(), String> {
        if *self.is_full.lock().expect("whole") {
            return Err("full".into());
        }
        self.kept.lock().expect("whole").push(identity);
        Ok(())
    }

    async fn keep_key(&self, _: Zeroizing<Vec<u8>>) -> Result<(), String> {
        Ok(())
    }
}

impl Disk {
    fn fill(&self) {
        *self.is_full.lock().expect("whole") = true;
    }

    fn empty(&self) {
        *self.is_full.lock().expect("whole") = false;
    }

    fn has(&self) -> Vec<String> {
        self.kept
            .lock()
            .expect("whole")
            .iter()
            .map(|one| one.join_rule.clone())
            .collect()
    }
}

/// One that was obtained so many seconds ago, for a hundred seconds.
fn obtained(name: &str, ago: u64) -> Identity {
    let since = unix_now() - Duration::from_secs(ago);
    Identity {
        chain: Vec::new(),
        key: Zeroizing::default(),
        obtained_at_ms: millis(since),
        not_after_ms: millis(since + Duration::from_secs(100)),
        agent_id: "a".into(),
        pool: "p".into(),
        join_rule: name.into(),
    }
}

fn held(before: Option<Identity>) -> (Held, Arc<Disk>) {
    let disk = Arc::new(Disk::default());
    (Held::new(before, Some(Arc::clone(&disk) as Arc<dyn Keeper>)), disk)
}

fn in_use(held: &Held) -> Option<String> {
    held.in_use().map(|identity| identity.join_rule.clone())
}

/// Guards that the first use, which ends what is on disk, comes after the write, and that the old one is used meanwhile.
#[tokio::test]
async fn what_cannot_be_written_is_not_used_while_the_old_one_lasts_and_is_tried_again() {
    let (held, disk) = held(Some(obtained("old", 70)));
    disk.fill();
    let put = held.put(obtained("new", 0), By::WhatLasts).await;
    assert_eq!(put, Err("full".into()));
    assert_eq!(in_use(&held), Some("old".into()));
    let warning = held.warning().expect("told");
    assert!(warning.contains("not on disk (full)"), "{warning}");
    tokio::select! {
        () = held.keep_up() => unreachable!("it goes on for ever"),
        () = held.settled() => panic!("it is used unwritten"),
        () = tokio::time::sleep(Duration::from_millis(2500)) => {}
    }
    disk.empty();
    tokio::select! {
        () = held.keep_up() => unreachable!("it goes on for ever"),
        () = held.settled() => {}
    }
    assert_eq!((disk.has(), in_use(&held)), (vec!["new".into()], Some("new".into())));
    assert_eq!(held.warning(), None);
}

/// Guards the last tenth of the old one's life, and what was never written being written at last.
#[tokio::test]
async fn near_the_end_of_the_old_one_the_new_one_is_used_and_told_of_until_it_is_written() {
    for before in [Some(obtained("old", 91)), Some(obtained("old", 101)), None] {
        let (held, disk) = held(before);
        disk.fill();
        assert_eq!(held.put(obtained("new", 0), By::WhatLasts).await, Ok(()));
        assert_eq!(in_use(&held), Some("new".into()));
        assert!(held.warning().is_some_and(|told| told.contains("it is in use")));
        held.settled().await;
        disk.empty();
        held.write().await.expect("written");
        assert_eq!((disk.has(), held.warning()), (vec!["new".into()], None));
    }
}

/// Guards what is good once, a token and a certificate that has ended: what it was used for is not used before a restart
/// would find it.
#[tokio::test]
async fn what_is_used_up_by_it_waits_for_the_disk() {
    for before in [None, Some(obtained("ended", 101))] {
        let was_in_use = before.as_ref().map(|before| before.join_rule.clone());
        let (held, disk) = held(before);
        disk.fill();
        assert_eq!(held.put(obtained("new", 0), By::WhatIsUsedUp).await, Err("full".into()));
        assert_eq!(held.make_do(), Err("full".into()));
        assert_eq!(in_use(&held), was_in_use);
        disk.empty();
        held.write().await.expect("written");
        assert_eq!((in_use(&held), held.make_do()), (Some("new".into()), Ok(false)));
    }
}

/// Guards an agent that was away while it had two: the old one has ended or is refused, and the new one is not on disk.
#[tokio::test]
async fn without_a_good_one_the_unwritten_one_has_to_do() {
    let (held, disk) = held(Some(obtained("old", 70)));
    disk.fill();
    held.put(obtained("new", 0), By::WhatLasts).await.expect_err("full");
    held.doubt();
    assert_eq!((held.make_do(), in_use(&held)), (Ok(true), Some("new".into())));
    assert!(held.is_good());
    held.doubt();
    assert_eq!(held.make_do(), Ok(false), "it was tried");
}

/// Guards the order on disk: an older one never comes after a newer one.
#[tokio::test]
async fn only_the_newest_is_written() {
    let (held, disk) = held(Some(obtained("old", 95)));
    disk.fill();
    held.put(obtained("one", 0), By::WhatLasts).await.expect("used");
    disk.empty();
    held.put(obtained("two", 0), By::WhatLasts).await.expect("used");
    held.write().await.expect("nothing is left");
    assert_eq!((disk.has(), in_use(&held)), (vec!["two".into()], Some("two".into())));
}
