//! Shared parts of the tests: packets, made by hand and at random, for directors and for name servers, the world that they travel in, and vectors.

pub mod big_pool;
pub mod director_vectors;
pub mod hostile;
pub mod isolation;
pub mod packets;
pub mod random;
pub mod vector;
pub mod world;
