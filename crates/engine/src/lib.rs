//! The brain: pods and containers, their plans, phases and tasks.
