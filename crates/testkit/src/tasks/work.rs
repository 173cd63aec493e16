//! Handlers made of closures.

use async_trait::async_trait;
use portolan_tasks::{Done, Handler, TaskContext, TaskFailure};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// What a closure that stands for a handler returns.
pub type Working<'a, T> = Pin<Box<dyn Future<Output = Result<T, TaskFailure>> + Send + 'a>>;

type Run = dyn for<'a> Fn(&'a TaskContext) -> Working<'a, Done> + Send + Sync;
type Undo = dyn for<'a> Fn(&'a TaskContext) -> Working<'a, ()> + Send + Sync;

struct Closures {
    kind: &'static str,
    run: Box<Run>,
    undo: Option<Box<Undo>>,
}

#[async_trait]
impl Handler for Closures {
    fn kind(&self) -> &'static str {
        self.kind
    }

    async fn run(&self, context: &TaskContext) -> Result<Done, TaskFailure> {
        (self.run)(context).await
    }

    async fn undo(&self, context: &TaskContext) -> Result<(), TaskFailure> {
        match &self.undo {
            Some(undo) => undo(context).await,
            None => Ok(()),
        }
    }

    fn undoes(&self) -> bool {
        self.undo.is_some()
    }
}

/// A handler of `kind` that does `run`: `handler("A", |ctx| Box::pin(async move { … }))`.
pub fn handler(
    kind: &'static str,
    run: impl for<'a> Fn(&'a TaskContext) -> Working<'a, Done> + Send + Sync + 'static,
) -> Arc<dyn Handler> {
    Arc::new(Closures { kind, run: Box::new(run), undo: None })
}

/// A handler that can also undo.
pub fn undoing_handler(
    kind: &'static str,
    run: impl for<'a> Fn(&'a TaskContext) -> Working<'a, Done> + Send + Sync + 'static,
    undo: impl for<'a> Fn(&'a TaskContext) -> Working<'a, ()> + Send + Sync + 'static,
) -> Arc<dyn Handler> {
    Arc::new(Closures { kind, run: Box::new(run), undo: Some(Box::new(undo)) })
}
