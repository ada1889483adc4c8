//! What a plan says beforehand.
