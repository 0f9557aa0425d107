//! A scheduler that a seed decides: whenever a vertex's task could go on, it may be that all
//! others go on first, again and again. On one thread, each seed takes its own course.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::testkit::Random;

thread_local! {
    static CHANCE: RefCell<Option<Random>> = const { RefCell::new(None) };
}

/// Shakes the tasks of this thread from now on; `None` lets them go on at once.
pub(crate) fn shake(seed: Option<u64>) {
    CHANCE.with_borrow_mut(|chance| *chance = seed.map(Random::new));
}

fn lets_others_go_first() -> bool {
    CHANCE.with_borrow_mut(|chance| chance.as_mut().is_some_and(|chance| chance.one_in(3)))
}

/// Lets others go first, as the thread's seed decides.
pub(crate) fn shaken<F: Future>(future: F) -> Shaken<F> {
    Shaken(Box::pin(future))
}

pub(crate) struct Shaken<F>(Pin<Box<F>>);

impl<F: Future> Future for Shaken<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if lets_others_go_first() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.0.as_mut().poll(context)
    }
}
