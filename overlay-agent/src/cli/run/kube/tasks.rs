//! Tasks that must not end as long as the agent runs.

use anyhow::{Result, anyhow};
use tokio::task::{JoinError, JoinSet};

/// All of them; they end with it.
#[derive(Default)]
pub(super) struct Tasks {
    set: JoinSet<(&'static str, Result<()>)>,
}

impl Tasks {
    /// One that cannot fail.
    pub(super) fn add(&mut self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.fallible(name, async {
            task.await;
            Ok(())
        });
    }

    /// One that can.
    pub(super) fn fallible(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<()>> + Send + 'static,
    ) {
        // A task in a task: a panic is told with its name.
        self.set.spawn(async move {
            let mut own = JoinSet::new();
            own.spawn(task);
            let result = own.join_next().await.unwrap_or(Ok(Ok(())));
            (name, result.unwrap_or_else(|error| Err(described(error))))
        });
    }

    /// Waits until one of them ends, which none should.
    pub(super) async fn ended(&mut self) -> Result<()> {
        match self.set.join_next().await {
            None => Ok(()),
            Some(Ok((name, Ok(())))) => Err(anyhow!(
                "{name} has ended: everything on this node stays as it is"
            )),
            Some(Ok((name, Err(error)))) => Err(error.context(format!(
                "{name} has ended: everything on this node stays as it is"
            ))),
            Some(Err(error)) => Err(described(error)),
        }
    }
}

fn described(error: JoinError) -> anyhow::Error {
    match error.try_into_panic() {
        Ok(panic) => {
            let text = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned());
            anyhow!("panic: {}", text.unwrap_or_else(|| "without a text".to_owned()))
        }
        Err(error) => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn an_end_of_any_kind_is_noticed_with_its_name() {
        for (kind, words) in [
            ("end", "the task has ended"),
            ("error", "no luck"),
            ("panic", "panic: oh"),
        ] {
            let mut tasks = Tasks::default();
            tasks.add("another", pending());
            match kind {
                "end" => tasks.add("the task", async {}),
                "error" => tasks.fallible("the task", async { Err(anyhow!("no luck")) }),
                _ => tasks.add("the task", async { panic!("oh") }),
            }
            let text = format!("{:#}", tasks.ended().await.unwrap_err());
            assert!(
                text.starts_with("the task has ended") && text.contains(words),
                "{text}"
            );
        }
    }
}
