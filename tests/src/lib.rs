//! Shared parts of the tests: packets, the world that they travel in, vectors, and a model of the director.

pub mod director_vectors;
pub mod isolation;
pub mod model;
pub mod packets;
pub mod vector;
pub mod world;
