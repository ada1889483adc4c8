//! BIRD's control socket: one command, one reply of numbered lines.
