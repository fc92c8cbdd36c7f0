//! The one runtime that the harness's own servers live on, apart from the runtimes of the tests: a test
//! that blocks its thread stops no proxy, and a shared server outlives the test that started it.

use std::future::Future;
use std::sync::LazyLock;

use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

#[expect(clippy::expect_used, reason = "without threads there is no test to run")]
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("harness")
        .enable_all()
        .build()
        .expect("threads for the harness")
});

/// A background task that ends when this is dropped.
#[derive(Debug)]
pub struct Background(JoinHandle<()>);

impl Drop for Background {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs something until the handle is dropped.
#[must_use = "dropping the handle ends the task"]
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Background {
    Background(RUNTIME.spawn(future))
}

/// Runs something to its end, whatever happens to the caller.
pub async fn run<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> anyhow::Result<T> {
    Ok(RUNTIME.spawn(future).await?)
}

/// Runs something to its end; nobody waits for it.
pub(crate) fn detach(future: impl Future<Output = ()> + Send + 'static) {
    drop(RUNTIME.spawn(future));
}
