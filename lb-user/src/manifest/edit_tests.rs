//! What each change makes, and why it is refused.
