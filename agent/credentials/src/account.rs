//! The account whose calls AWS counts. A role's stands in its ARN; the agent's own is in its credentials, or is asked
//! for once, when they are first used: otherwise a task with the agent's own identity and one with a role in the same
//! account would throttle each other.

use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::task::JoinSet;

/// Who calls. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Account {
    /// Twelve digits, out of the last role's ARN.
    Of(Arc<str>),
    /// The agent's own.
    Own(Arc<OwnAccount>),
}

/// The account of the agent's own identity, once it is known.
#[derive(Debug, Default)]
pub(crate) struct OwnAccount {
    number: OnceLock<String>,
    /// One task at most, which ends by itself.
    asking: Mutex<JoinSet<()>>,
}

impl Account {
    pub(crate) fn of(number: &str) -> Self {
        Self::Of(number.into())
    }

    /// Empty: the agent's own, of which the number is not known.
    pub(crate) fn number(&self) -> &str {
        match self {
            Self::Of(number) => number,
            Self::Own(own) => own.number.get().map_or("", String::as_str),
        }
    }
}

impl OwnAccount {
    /// One of which the number stands somewhere.
    pub(crate) fn known(number: &str) -> Self {
        let own = Self::default();
        if is_account(number) {
            own.number.get_or_init(|| number.to_owned());
        }
        own
    }

    /// The number is `told` by the credentials; otherwise `ask` is run beside everything else, unless that was done
    /// before. Without an answer it is run again the next time.
    pub(crate) fn learn<Ask>(self: &Arc<Self>, told: Option<&str>, ask: Ask)
    where
        Ask: Future<Output = Option<String>> + Send + 'static,
    {
        if self.number.get().is_some() {
            return;
        }
        if let Some(told) = told.filter(|told| is_account(told)) {
            self.number.get_or_init(|| told.to_owned());
            return;
        }
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        while asking.try_join_next().is_some() {}
        if !asking.is_empty() {
            return;
        }
        let own = Arc::downgrade(self);
        asking.spawn(async move {
            let answer = ask.await.filter(|number| is_account(number));
            if let (Some(number), Some(own)) = (answer, own.upgrade()) {
                own.number.get_or_init(|| number);
            }
        });
    }
}

fn is_account(number: &str) -> bool {
    number.len() == 12 && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const NUMBER: &str = "111111111111";

    #[tokio::test]
    async fn the_own_account_is_asked_for_until_it_is_known_and_by_one_at_a_time() {
        let (own, asked) = (Arc::new(OwnAccount::default()), Arc::new(AtomicU32::new(0)));
        let account = Account::Own(Arc::clone(&own));
        let ask = |answer: Option<&str>| {
            let (asked, answer) = (Arc::clone(&asked), answer.map(str::to_owned));
            async move {
                asked.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
                answer
            }
        };
        let rest = || async {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        };
        own.learn(None, ask(None));
        own.learn(None, ask(None));
        rest().await;
        assert_eq!(
            (account.number(), asked.load(Ordering::Relaxed)),
            ("", 1),
            "one at a time"
        );
        own.learn(None, ask(Some("what is this?")));
        rest().await;
        assert_eq!((account.number(), asked.load(Ordering::Relaxed)), ("", 2));
        own.learn(None, ask(Some(NUMBER)));
        rest().await;
        assert_eq!((account.number(), asked.load(Ordering::Relaxed)), (NUMBER, 3));
        own.learn(None, ask(Some("222222222222")));
        rest().await;
        assert_eq!((account.number(), asked.load(Ordering::Relaxed)), (NUMBER, 3));
    }

    #[tokio::test]
    async fn what_the_credentials_tell_is_not_asked_for() {
        let own = Arc::new(OwnAccount::default());
        own.learn(Some(NUMBER), async { unreachable!("it is told") });
        assert_eq!(Account::Own(own).number(), NUMBER);
        assert_eq!(Account::Own(Arc::new(OwnAccount::known("none"))).number(), "");
    }
}
