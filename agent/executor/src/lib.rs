//! One task's life: slots, attempts, effects and replay, deadlines, cancel, undo, workspace.
