//! Expressions: `${{ … }}` inside the strings of a task document, `when`, and selectors.
//!
//! Called by the document's reader (what can be checked or resolved before queueing), by the
//! executor (everything in a step, when it begins) and by the manager (selectors). An expression
//! sees four names, `task`, `inputs`, `steps`, `agent`, and a closed list of filters; it reaches no
//! file, no environment variable and no clock, and it is bounded in steps, length, depth and result.

pub(crate) mod evaluate;
mod scope;
pub(crate) mod engine;
mod depth;
pub(crate) mod reference;
pub(crate) mod segment;

pub use engine::{ExpressionError, FILTERS, MAX_EXPRESSION_BYTES, MAX_RESULT_BYTES};
pub use evaluate::{evaluate_bool, evaluate_selector, evaluate_text, evaluate_tree};
pub use scope::{AgentNames, Scope, StepNames, TaskNames};
