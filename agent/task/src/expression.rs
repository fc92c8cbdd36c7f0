//! Expressions `${{ … }}` over task, steps, agent, inputs.
